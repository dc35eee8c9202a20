"""The lines that a step prints on a terminal and in a file, and the trackers."""

import io
import json
import os
import sqlite3
import time

import pytest

from fastrl.config import DataConfig, RlConfig, RunConfig, SubsetConfig, TrainConfig
from fastrl.report.console import Console, number, plain_line
from fastrl.report.follow import read_live
from fastrl.report.pace import Activity, duration
from fastrl.report.reporter import Reporter
from fastrl.report.trackers import check_trackers, open_trackers, run_id
from fastrl.runtime.run import Run, read_metrics

METRICS = {
    "reward": 0.75,
    "rewards/answer/mean": 0.5,
    "completions/mean_length": 31.25,
    "kl": None,
    "eval/avg@4": 0.625,
    "eval/avg@4/low": 0.5,
    "time/rollout_s": 1.0,
    "time/update_s": 0.5,
}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_one_plain_line_a_step_in_a_file():
    file = io.StringIO()
    console = Console(60, file)
    console.log(12, METRICS)
    console.log(13, {"reward": 0.8})
    console.close()
    assert file.getvalue().splitlines() == [
        "step 12/60 | reward 0.75 | answer 0.5 | length 31.25 | eval/avg@4 0.625 | 1.50s",
        "step 13/60 | reward 0.8",
    ]


def test_a_long_line_stays_one_line():
    file = io.StringIO()
    Console(60, file).log(1, {"reward": 0.123456789} | {f"eval/transfer_{i}": 0.5 for i in range(12)})
    assert file.getvalue().count("\n") == 1 and "0.1235" in file.getvalue()


def test_a_live_table_on_a_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    file = Terminal()
    console = Console(4, file)
    for step, reward in ((1, 0.0), (2, 1.0)):
        console.log(step, {"reward": reward})
    console.close()
    shown = file.getvalue()
    assert "step 2 of 4" in shown and "▁█" in shown and "to go" in shown


def test_numbers_and_durations_are_short():
    assert [number(x) for x in (0, 0.5, 1234.567, 1e-6, -2.5e7, 3)] == [
        "0",
        "0.5",
        "1235",
        "1.00e-06",
        "-2.50e+07",
        "3",
    ]
    assert [duration(s) for s in (4.4, 65, 3725)] == ["4s", "1m 5s", "1h 2m"]
    assert plain_line(1, 2, {}, {"time/eval_s": None}) == "step 1/2"


def reporter(folder, report_to=()):
    config = RlConfig(run=RunConfig(dir=str(folder), report_to=report_to), train=TrainConfig(num_steps=3))
    return Reporter(Run.start(config), config)


def test_a_step_goes_to_the_file_and_the_console(tmp_path, capsys):
    with reporter(tmp_path / "run") as report:
        report.log(1, {"reward": 0.5, "kl": float("nan")})
    line = json.loads((tmp_path / "run/metrics.jsonl").read_text())
    assert line == {"step": 1, "reward": 0.5, "kl": None}
    assert "step 1/3 | reward 0.5" in capsys.readouterr().err


def test_a_rank_that_does_not_write_is_silent(tmp_path, capsys):
    config = RlConfig(run=RunConfig(dir=str(tmp_path / "run"), report_to=("wandb",)))
    with Reporter(Run.start(config, writes=False), config) as report:
        report.log(1, {"reward": 0.5})
    assert capsys.readouterr().err == "" and not (tmp_path / "run").exists()


def test_a_missing_tracker_is_named_before_anything_starts(monkeypatch, tmp_path):
    monkeypatch.setattr("fastrl.report.trackers.find_spec", lambda name: None)
    for name in ("trackio", "wandb", "tensorboard"):
        with pytest.raises(
            ValueError, match=rf"report_to: expected an installed package, got {name}; pip install {name}"
        ):
            check_trackers([name])
    with pytest.raises(ValueError, match="expected some of trackio, wandb, tensorboard, got 'mlflow'"):
        open_trackers(["mlflow"], tmp_path, {})


def test_a_run_keeps_its_id_and_another_gets_its_own(tmp_path):
    for name in ("x/run", "y/run"):
        (tmp_path / name).mkdir(parents=True)
    first, second = run_id(tmp_path / "x/run"), run_id(tmp_path / "y/run")
    assert first != second and len(first) == 8
    assert run_id(tmp_path / "x/run") == first


@pytest.mark.slow
def test_wandb_writes_one_run_under_one_id(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for step in (1, 2):  # the second is the run resumed
        with reporter(tmp_path / "run", report_to=("wandb",)) as report:
            report.log(step, {"reward": 0.5, "kl": float("nan")})
    files = list((tmp_path / "run/wandb").glob("offline-run-*/*.wandb"))
    assert {file.name for file in files} == {f"run-run-{run_id(tmp_path / 'run')}.wandb"}


def test_trackio_continues_a_resumed_run(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is first imported
    pytest.importorskip("trackio", reason="trackio is not installed")
    for step in (1, 2):
        with reporter(tmp_path / "run", report_to=("trackio",)) as report:
            report.log(step, {"reward": step / 2})
    with sqlite3.connect(tmp_path / "trackio/fastrl.db") as database:
        rows = list(database.execute("select step, metrics from metrics order by step"))
        assert [(step, json.loads(metrics)["reward"]) for step, metrics in rows] == [(1, 0.5), (2, 1.0)]


def test_tensorboard_events_hold_the_numbers(tmp_path):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
    )
    with reporter(tmp_path / "run", report_to=("tensorboard",)) as report:
        report.log(1, {"reward": 0.5})
        report.log(2, {"reward": 0.75})
    events = accumulator.EventAccumulator(str(tmp_path / "run/tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("reward")] == [(1, 0.5), (2, 0.75)]


def test_live_json_shows_the_current_phase_and_is_removed_at_the_end(tmp_path):
    folder = tmp_path / "run"
    with reporter(folder) as report:
        now, age = read_live(folder)
        assert (now["done"], now["total"], now["unit"], now["pid"]) == (0, 3, "step", os.getpid())
        assert now["doing"].startswith("start ") and now["memory_gib"] > 0.01 and age < 60
        report.log(2, {"reward": 0.5})
        assert report.pulse.state().done == 2
    assert read_live(folder) is None and not (folder / "live.json").exists()


def test_units_that_lie_on_disk_are_no_pace(tmp_path, capsys):
    """120 were there; of 20 more 10 are done: the rate is that of these 10."""
    config = SubsetConfig(run=RunConfig(dir=str(tmp_path / "run")), data=DataConfig(path="x"), sizes=(1,))
    with Reporter(Run.start(config), config, unit="problem") as report:
        report.found(120)
        report.expect(20)
        time.sleep(0.05)
        report.advance(10, {"accuracy": 0.5})
        rate = report.console.pace.text(130, 140)[1]
        assert float(rate.split()[0]) < 10 / 0.05
    assert "problem 130/140 | right 0.5 | about " in capsys.readouterr().err
    assert [line["step"] for line in read_metrics(tmp_path / "run/metrics.jsonl")] == [130]


def test_a_pipe_gets_a_line_every_few_seconds_while_nothing_is_logged():
    file, counts = io.StringIO(), iter(range(1, 1000))
    with Console(None, file, unit="run", every_s=0.0, watch=lambda: Activity("busy", next(counts), 1000)):
        while file.getvalue().count("\n") < 2:
            time.sleep(0.01)
    lines = file.getvalue().splitlines()
    assert lines[0].startswith("run 1/1000 | ") and lines[0].endswith(" | busy")
    assert lines[1].startswith("run 2/1000 | about ") and "\x1b" not in file.getvalue()


def test_the_live_line_is_cut_to_the_terminal(terminal):
    with Console(7, watch=lambda: Activity("x" * 300, 3, 7)):
        pass
    text = terminal.text()
    assert "step 3 of 7, 0s so far, xxx" in text and "x" * 100 not in text and "\u2026" in text
