"""fastrl watch: the view by hand, files being written, hostile texts, a real terminal."""

import json
import os
import re
import time

import pytest
from jsonl import write_jsonl
from ptys import Screen
from rich.cells import cell_len
from run_folders import completion_row, rl_line, rl_run, write_stage

from fastrl.cli.main import main
from fastrl.report.follow import FollowedLines
from fastrl.report.text import printable
from fastrl.report.watch import WatchedRun, page

HOSTILE = "\x1b]0;title\x07\x1b[2J\x1b[31mred\x9b2J\x00\u202eevil\r\n\tend"


def shown(folder, width=80, height=40):
    run = WatchedRun(folder)
    moment = run.read()
    return page(moment, run.is_finished(moment), width, height)


def live(folder, **changed):
    now = {
        "pid": 1, "doing": "update 3s", "done": 3, "total": 60, "unit": "step", "memory_gib": 1.5,
        "device_gib": 0.0,
    }  # fmt: skip
    (folder / "live.json").write_text(json.dumps(now | changed))


def test_the_page_of_a_run_by_hand(tmp_path):
    folder = rl_run(tmp_path / "run")
    live(folder)
    lines = shown(folder)
    # rl_line: 3 s and 100 tokens per step; reward is step / 10
    assert lines[0] == "run | rl | step 3 | 3s/step"
    assert lines[1] == "step 3 of 60, update 3s | memory 1.5 GiB"
    rows = {line[:28].strip(): line[28:].split() for line in lines if re.match(r"[a-z].{27}\s*\d", line)}
    assert rows["tokens/s"] == ["33.33"]
    assert rows["reward"] == ["0.3", "▁▅█"] and rows["completions/mean_length"] == ["23", "▁▅█"]
    assert "completions of step 3" in lines
    at = lines.index("completions of step 3")
    assert lines[at + 1] == "correct, reward 1.5 | question 0"
    assert lines[at + 2].endswith(r"\boxed{3}")


def test_a_run_that_has_not_ended_and_one_that_has(tmp_path):
    config = {"stage": "sft", "train": {"num_steps": 2}}
    folder = write_stage(tmp_path / "run", config, [{"step": 1, "loss": 0.5, "time/update_s": 4.0}])
    assert shown(folder)[0] == "run | sft | step 1 of 2 | 4s/step | about 4s to go | not running"
    write_jsonl(folder / "metrics.jsonl", [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}])
    assert shown(folder)[0] == "run | sft | step 2 of 2 | finished"
    live(folder)
    os.utime(folder / "live.json", (time.time() - 300,) * 2)
    assert shown(folder)[1].startswith("no update for 5m ")


def test_alarms_are_shown(tmp_path):
    folder = write_stage(
        tmp_path / "run", {"stage": "rl"}, [{"step": 1, "alarm/drift": 1.0, "alarm/collapse": 0.0}]
    )
    assert "! alarm/drift" in shown(folder) and "! alarm/collapse" not in shown(folder)


@pytest.mark.parametrize("width", [1, 5, 20, 41, 80, 300])
@pytest.mark.parametrize("height", [1, 3, 10, 60])
def test_it_fits_whatever_the_terminals_size(tmp_path, width, height):
    folder = rl_run(tmp_path / "run", prompt="宽字 " * 40)
    live(folder)
    lines = shown(folder, width, height)
    assert 0 < len(lines) <= height and all(cell_len(line) <= width for line in lines)


def test_nothing_that_a_model_wrote_reaches_the_terminal_as_a_command(tmp_path):
    folder = write_stage(tmp_path / "run", {"stage": "rl"}, [rl_line(1) | {HOSTILE: 1.0}])
    rows = [completion_row(0, 0, prompt=HOSTILE, completion=HOSTILE, verdict=HOSTILE)]
    write_jsonl(folder / "completions/step-000001.jsonl", rows)
    live(folder, doing=HOSTILE)
    lines = shown(folder, 400)
    assert all(each.isprintable() for line in lines for each in line)
    assert any("evil end" in line for line in lines)
    assert printable(HOSTILE) == "·]0;title··[2J·[31mred·2J··evil end"


def test_half_a_line_waits_for_its_end(tmp_path):
    path = tmp_path / "metrics.jsonl"
    followed = FollowedLines(path)
    assert followed.read() == []
    path.write_text('{"step": 1}\n{"st')
    assert followed.read() == [{"step": 1}]
    with path.open("a") as file:
        file.write('ep": 2}\n')
    assert followed.read() == [{"step": 1}, {"step": 2}]
    other = tmp_path / "other"
    other.write_text('{"step": 1}\n{"step": 9}\n{"step": 10}\n')  # a resumed run writes it anew
    other.replace(path)
    assert [line["step"] for line in followed.read()] == [1, 9, 10]


def test_without_a_terminal_it_is_printed_once(tmp_path, capsys):
    folder = rl_run(tmp_path / "run")
    assert main(["watch", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("run | rl | step 3") and "\x1b" not in printed
    assert main(["watch", str(tmp_path)]) == 2
    assert "[watch] RUN: expected a folder with config.yaml" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["watch", str(folder), "--every_s", "0"])
    assert "[watch] every_s: expected > 0, got 0.0" in capsys.readouterr().err


def test_a_pipelines_running_stage(tmp_path):
    (tmp_path / "pipeline.yaml").write_text("sft: {stage: sft}\nrl: {stage: rl}\n")
    assert shown(tmp_path)[0].endswith("| pipeline | step 0 | not running")
    first = write_stage(tmp_path / "sft", {"stage": "sft"}, [{"step": 1, "loss": 0.5}])
    os.utime(first / "config.yaml", (1, 1))
    rl_run(tmp_path / "rl")
    assert f"{tmp_path.name}/rl | rl | step 3" in shown(tmp_path)[0]


@pytest.mark.process
def test_in_a_terminal_it_follows_the_run_until_q(tmp_path):
    folder = rl_run(tmp_path / "run", prompt=HOSTILE)
    with Screen(["watch", str(folder), "--every_s", "0.1"], width=60, height=20) as screen:
        screen.until("step 3")
        with (folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(rl_line(4)) + "\n")
        screen.until("step 4")
        screen.press("q")
        assert screen.ended() == 0
    # only the page's own commands: the alternate screen, the cursor, home and clearing
    assert set(re.findall(r"\x1b\[[^A-Za-z]*[A-Za-z]", screen.text)) <= {
        "\x1b[?1049h", "\x1b[?25l", "\x1b[H", "\x1b[K", "\x1b[J", "\x1b[?25h", "\x1b[?1049l",
    }  # fmt: skip
    assert screen.text.count("\x1b") == len(re.findall(r"\x1b\[[^A-Za-z]*[A-Za-z]", screen.text))
    assert screen.text.endswith("\x1b[?25h\x1b[?1049l")


@pytest.mark.process
def test_ctrl_c_ends_it_too(tmp_path):
    with Screen(["watch", str(rl_run(tmp_path / "run"))]) as screen:
        screen.until("step 3")
        screen.press("\x03")
        assert screen.ended() == 0
    assert screen.text.endswith("\x1b[?25h\x1b[?1049l")
