"""fastrl reproduce: what runs, what is not repeated, refusals, and the resulting table."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from jsonl import write_jsonl

from fastrl.cli import reproduce as cli_reproduce
from fastrl.cli.main import main
from fastrl.tiny.reproduce import rltr
from fastrl.tiny.reproduce.options import Sizes, claim_folder, read_sizes
from fastrl.tiny.world.config import WorldConfig
from fastrl.tiny.world.make import World

# A part in a fraction of a second: each of its seeds finds a little more.
PART = """
import json, pathlib, sys, time
study, seed, root = sys.argv[1:]
folder = pathlib.Path(root, study, f"seed-{seed}")
folder.mkdir(parents=True, exist_ok=True)
with (folder / "starts").open("a") as starts:
    starts.write(".")
if pathlib.Path(root, "slow").exists() and seed == "1":
    time.sleep(600)
if pathlib.Path(root, "broken").exists() and seed == "1":
    raise SystemExit("no luck")
arm = lambda value: {"transfer/receiver": value, "transfer/held_out_receiver": 0.5, "maj@2": 1.0}
found = {"rltr": arm(0.9 + int(seed) / 100), "rlvr": arm(0.2), "steps_counted": {"rltr": 10, "rlvr": 25},
         "seconds": {"wall": 1.0, "cpu": 40.0}}
(folder / "numbers.json").write_text(json.dumps(found))
"""


@pytest.fixture
def asked(tmp_path, monkeypatch):
    monkeypatch.setattr(
        cli_reproduce,
        "study_command",
        lambda part, options: [
            sys.executable, "-c", PART, part.values["study"], str(part.seed), options.dir
        ],
    )  # fmt: skip
    return ["reproduce", "--dir", str(tmp_path / "r"), "--only", "rltr", "--samples", "2"]


def starts(root):
    return {path.parent.name: len(path.read_text()) for path in root.glob("rltr/seed-*/starts")}


def verdicts(root):
    return {each["name"]: each["verdict"] for each in json.loads((root / "table.json").read_text())["claims"]}


def test_it_runs_all_parts_once_and_writes_the_table(asked, tmp_path, capsys):
    root = tmp_path / "r"
    assert main(asked) == 0
    out = capsys.readouterr().out
    assert "3 runs, 0 finished; 2 at a time" in out and "3/3  rltr/seed-2" in out
    assert "about 0s to go" in out
    assert verdicts(root) == {
        "rltr/transfer": "holds", "rltr/held_out": "does not hold", "rltr/majority": "does not hold",
        "rltr/steps": "holds",
    }  # fmt: skip
    table = (root / "table.md").read_text()
    # 0.9 0.91 0.92 against 0.2: 0.71 +- 4.303 * 0.01 / sqrt(3)
    assert "| 0.910, 0.200 | +0.710 [+0.685, +0.735], n=3 | holds |" in table
    assert "| 25.0, 10.0 | 2.50 [2.50, 2.50], n=3 | holds |" in table
    assert "2m 0s of CPU time" in table and "0.910, 0.200" in out
    whole = json.loads((root / "table.json").read_text())
    first = whole["claims"][0]
    assert first["first"] == [0.9, 0.91, 0.92] and first["seeds"] == [0, 1, 2]
    assert first["rule"] == {"holds_above": 0.0, "does_not_hold_below": 0.02, "ratio": False}
    assert whole["sizes"] == {"steps": 30, "problems": 128, "samples": 2, "teach": None}
    assert "torch" in whole["environment"]["packages"]
    # again: nothing is started; one seed more: only that one
    assert main(asked) == 0 and set(starts(root).values()) == {1}
    assert main([*asked, "--seeds", "0", "1", "2", "3"]) == 0
    assert starts(root) == {f"seed-{seed}": 1 for seed in range(4)}


def test_a_part_that_fails_is_named_and_tried_again(asked, tmp_path, capsys):
    root = tmp_path / "r"
    claim_folder(root, Sizes(samples=2))
    (root / "broken").touch()
    assert main(asked) == 1
    out = capsys.readouterr().out
    assert "rltr/seed-1  failed after" in out and "exit code 1: no luck" in out
    claim = json.loads((root / "table.json").read_text())["claims"][0]
    assert claim["seeds"] == [0, 2] and claim["effects"] == pytest.approx([0.7, 0.72])
    (root / "broken").unlink()
    assert main(asked) == 0
    assert starts(root) == {"seed-0": 1, "seed-1": 2, "seed-2": 1}


@pytest.mark.long
def test_a_killed_run_resumes_and_leaves_no_process(asked, tmp_path):
    root = tmp_path / "r"
    claim_folder(root, Sizes(samples=2))
    (root / "slow").touch()
    script = (
        f"import sys; from fastrl.cli import reproduce as cli_reproduce; PART = {PART!r}\n"
        "cli_reproduce.study_command = lambda part, options: "
        "[sys.executable, '-c', PART, part.values['study'], str(part.seed), options.dir]\n"
        f"sys.exit(cli_reproduce.main({asked[1:]!r}))"
    )
    started = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 300
        while starts(root) != {f"seed-{seed}": 1 for seed in range(3)}:  # seed 1 sleeps, the others pass
            assert started.poll() is None and time.monotonic() < until
            time.sleep(0.05)
    finally:
        os.kill(started.pid, signal.SIGKILL)
    assert started.wait() == -signal.SIGKILL
    (root / "slow").unlink()
    assert main(asked) == 0  # its lock is free: what it had started died with it
    assert starts(root) == {"seed-0": 1, "seed-1": 2, "seed-2": 1}


def test_another_configuration_is_refused_and_never_mixed(tmp_path, monkeypatch, capsys):
    root = tmp_path / "r"
    claim_folder(root, Sizes(steps=5, teach=3))
    assert read_sizes(root) == Sizes(steps=5, teach=3)
    claim_folder(root, Sizes(steps=5, teach=3))
    with pytest.raises(ValueError, match=r"\[reproduce\] dir: .* whose steps, teach differ"):
        claim_folder(root, Sizes())
    saved = json.loads((root / "reproduce.json").read_text())
    (root / "reproduce.json").write_text(json.dumps(saved | {"worlds": "others"}))
    assert main(["reproduce", "--dir", str(root), "--steps", "5", "--teach", "3"]) == 2
    assert "numbers whose worlds differ" in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    with pytest.raises(ValueError, match="holds no reproduction"):
        claim_folder(tmp_path / "other", Sizes())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seeds", "1", "1"], "[reproduce] seeds: expected each once, got '1 1'"),
        (["--steps", "0"], "[reproduce] steps: expected > 0, got 0"),
        (["--teach", "0"], "[reproduce] teach: expected > 0, got 0"),
        (["--processes", "0"], "[reproduce] processes: expected > 0, got 0"),
    ],
)
def test_bad_flags_are_refused_before_anything_is_written(flags, message, tmp_path, capsys):
    try:
        assert main(["reproduce", "--dir", str(tmp_path / "r"), *flags]) == 2
    except SystemExit as left:  # the reader of flags says it in its own frame
        assert left.code == 2
    shown = capsys.readouterr()
    assert message in " ".join((shown.err + shown.out).split()) and not (tmp_path / "r").exists()


def test_the_arms_of_rltr_differ_only_in_their_rewards(tmp_path, monkeypatch):
    ran, assessed = [], []

    def run_stage(config):
        ran.append(config)
        folder = Path(config.run.dir)
        folder.mkdir(parents=True, exist_ok=True)
        slow = "transfer" not in config.reward.functions
        rewards = [0.0] * (3 if slow else 1) + [1.0] * 9
        lines = [{"step": 0}, *({"step": i, "rewards/answer/mean": r} for i, r in enumerate(rewards, 1))]
        write_jsonl(folder / "metrics.jsonl", lines)
        return folder

    def assess(checkpoint, world, **options):
        assessed.append((checkpoint.name, options))
        return {"avg@4": 0.5}

    world = World(*(tmp_path / name for name in ("generator", "receiver", "held_out_receiver", "a", "b")))
    monkeypatch.setattr(rltr, "build_world", lambda config, cache: world)
    monkeypatch.setattr(rltr, "run_stage", run_stage)
    monkeypatch.setattr(rltr, "assess", assess)
    study = rltr.RltrStudy(3, 10, 8, 4, tmp_path / "3", WorldConfig(seed=3))
    found = study.run()
    without, with_it = ran
    assert without.reward.functions == ("answer", "format") and with_it.transfer.receiver.path.endswith(
        "/receiver"
    )
    assert with_it.reward.weights == (1.0, 0.1, 1.0) and with_it.run.seed == 3 and with_it.eval.path is None
    assert without == replace(with_it, run=without.run, reward=without.reward, transfer=without.transfer)
    # of ten steps rlvr's are 0 0 0 1 ...: five ones end at step 8; rltr's 0 1 ...: at step 6
    assert found["steps_to_it"] == found["steps_counted"] == {"rlvr": 8, "rltr": 6}
    options = {"num_problems": 8, "num_samples": 4, "stripped": False, "seed": 3}
    assert assessed == [("generator", options), ("rlvr", options), ("rltr", options)]
    assert study.run() == found and len(assessed) == 3


@pytest.mark.long
def test_a_whole_part_trains_and_measures(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FASTRL_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "r"
    flags = ["--steps", "2", "--teach", "2", "--problems", "2", "--samples", "2", "--seeds", "4"]
    assert main(["reproduce", "--dir", str(root), "--only", "rltr", "--processes", "1", *flags]) == 0
    numbers = json.loads((root / "rltr/seed-4/numbers.json").read_text())
    assert numbers["seconds"]["wall"] > 0 and numbers["steps_counted"]["rlvr"] in (2, 3)
    assert set(verdicts(root).values()) == {"undecided"}  # of one seed
    assert all(0 <= numbers[arm]["transfer/receiver"] <= 1 for arm in ("before", "rlvr", "rltr"))
    assert "a trial, not a result" in (root / "table.md").read_text()
    assert "run 1/1 | " in capsys.readouterr().err
