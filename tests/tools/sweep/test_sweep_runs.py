"""fastrl sweep with real training, killed half-way; and how processes of runs are ended."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import yaml
from jsonl import write_jsonl
from places import TESTS

from fastrl.cli.main import main
from fastrl.tools.sweep import schedule
from fastrl.tools.sweep.cells import Cell, cells, write_end
from fastrl.tools.sweep.grid import read_grid, resolve
from fastrl.tools.sweep.results import write_table
from fastrl.tools.sweep.schedule import locked, run_cells
from fastrl.train import run_recipe


@pytest.fixture
def recipe(checkpoints, tmp_path):
    rows = [{"question": f"{a}+{b}=?", "answer": str(a + b)} for a in range(3) for b in range(2)]
    write_jsonl(tmp_path / "problems.jsonl", rows)
    config = {
        "stage": "rl",
        "run": {"device": "cpu", "save_every": 2, "log_completions_every": 0},
        "model": {"path": str(checkpoints["qwen3"])},
        "data": {"path": str(tmp_path / "problems.jsonl")},
        "rollout": {"num_prompts": 2, "group_size": 3, "max_new_tokens": 8},
        "reward": {"functions": ["reward_functions.vowels"], "weights": [1.0]},
        "train": {"num_steps": 5},
        "eval": {"path": str(tmp_path / "problems.jsonl"), "num_samples": 1},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(config))
    return str(path)


def wait_for(condition, seconds=600):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "nothing came of it"
        time.sleep(0.02)


def is_alive(pid):
    """Not a zombie either, which nobody may have waited for yet."""
    try:
        return "\nState:\tZ" not in open(f"/proc/{pid}/status").read()
    except FileNotFoundError:
        return False


def lines(file):
    return file.read_text().count("\n") if file.exists() else 0


@pytest.mark.long
def test_a_killed_sweep_resumes_to_the_same_table(recipe, tmp_path, monkeypatch):
    folder, whole = tmp_path / "sweep", tmp_path / "whole"
    grid = [
        "sweep", recipe, "--dir", str(folder), "--seeds", "0",
        "--vary", "train.learning_rate", "1e-2", "0.001", "--metric", "reward", "eval/avg@1",
    ]  # fmt: skip
    monkeypatch.setenv("PYTHONPATH", str(TESTS))  # where reward_functions lies
    started = subprocess.Popen([sys.executable, "-m", "fastrl.cli.main", *grid], stdout=subprocess.DEVNULL)
    metrics = folder / "train.learning_rate=0.001" / "seed-0" / "metrics.jsonl"
    try:
        wait_for(lambda: lines(metrics) >= 4 or started.poll() is not None)  # the second run has a checkpoint
    finally:
        started.kill()
    assert started.wait() == -signal.SIGKILL
    with locked(folder):  # free at once: the run died with the sweep
        assert lines(metrics) < 6
    assert (folder / "train.learning_rate=0.01/seed-0.json").exists()

    assert main(grid) == 0
    logs = [sum(line.startswith("$") for line in log.open()) for log in sorted(folder.glob("*/*.log"))]
    assert logs == [2, 1]  # 0.001 comes first in the alphabet
    read, configs = resolve(read_grid(folder / "sweep.yaml"))
    of = {str(values): config for values, config in zip(read.combinations, configs, strict=True)}
    for cell in cells(read, whole):
        run_recipe(cell.configured(of[str(cell.values)]))
        write_end(cell, of[str(cell.values)], 0)
    write_table(read, whole)
    assert (folder / "table.csv").read_text() == (whole / "table.csv").read_text()
    assert "reward end" in (folder / "table.csv").read_text()


HOLDS_OUT = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(os.getpid(), child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("obedient", [True, False])
def test_a_signal_ends_the_runs_and_all_they_started(number, obedient, tmp_path, monkeypatch):
    monkeypatch.setattr(schedule, "GRACE_S", 5.0 if obedient else 0.3)
    script = tmp_path / "run.py"
    script.write_text(HOLDS_OUT.replace("SIG_IGN", "SIG_DFL") if obedient else HOLDS_OUT)
    runs = [Cell(values={}, seed=seed, folder=tmp_path / f"seed-{seed}") for seed in range(3)]
    before = signal.getsignal(number)

    def stop():
        wait_for(lambda: all(lines(run.log) == 2 for run in runs[:2]))  # the command, and its numbers
        os.kill(os.getpid(), number)

    threading.Thread(target=stop).start()
    ended = []
    with pytest.raises(SystemExit) as left, locked(tmp_path) as lock:
        run_cells(
            runs,
            lambda run: [sys.executable, str(script)],
            ["0", "1"],
            lock,
            lambda *told: ended.append(told),
        )
    assert left.value.code == 128 + number and ended == []
    started = [int(pid) for run in runs[:2] for pid in run.log.read_text().splitlines()[-1].split()]
    assert len(started) == 4
    wait_for(lambda: not any(map(is_alive, started)), seconds=10)
    assert not runs[2].log.exists() and not runs[0].ended.exists()
    assert signal.getsignal(number) == before


def test_a_run_that_a_signal_ended_says_so(tmp_path):
    run = Cell(values={}, seed=0, folder=tmp_path / "seed-0")
    told = []
    command = [sys.executable, "-c", "import os; print('step 1', flush=True); os.kill(os.getpid(), 9)"]
    with locked(tmp_path) as lock:
        run_cells([run], lambda cell: command, [], lock, lambda *each: told.append(each))
    assert [(cell.name, code) for cell, code, _ in told] == [("seed-0", -9)]
    assert run.log.read_text().splitlines()[-1] == "step 1"


def test_one_sweep_at_a_time_in_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(schedule, "LOCK_S", 0.1)
    with (
        locked(tmp_path),
        pytest.raises(ValueError, match=r"\[sweep\] dir: expected no other sweep"),
        locked(tmp_path),
    ):
        pass
    with locked(tmp_path):
        pass
