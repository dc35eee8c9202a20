"""Random faults, a grader that dies, and a rank that dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
from fault_world import bits, fault_config
from places import TESTS
from tiny_rl import curve

from bench.soak_child import graded
from fastrl.config.load import to_yaml
from fastrl.grading import AnswerGrader, Verdict
from fastrl.grading.process import GradingProcess
from fastrl.train import run_stage

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS)}


def test_a_short_soak_ends_as_the_undisturbed_run():
    command = [sys.executable, "-m", "bench.soak", "--steps", "12", "--faults", "10"]
    done = subprocess.run(command, env=ENVIRONMENT, cwd=TESTS.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["equal"] and found["unexpected"] == []
    assert found["faults"] >= 5 and found["by_kind"]["kill"] >= 1
    assert found["by_kind"]["save"] >= 1 and found["half_checkpoints"] == []


def test_a_grader_that_dies_changes_no_reward(monkeypatch):
    ids = [[number, 2] for number in range(8)]
    whole = graded(ids)
    # by hand: k = 2 + key % 5, right where key is even; key = number + 2
    assert whole == [(n + 2) % 7 / 7 + (n % 2 == 0) for n in range(8)]
    killed = kill_at(monkeypatch, sends=(1, 3))
    assert graded(ids) == whole
    assert killed == [1, 3]


def kill_at(monkeypatch, sends: tuple[int, ...]) -> list[int]:
    """Grading processes die in the middle of these pairs, counted from 1."""
    send, calls, killed = GradingProcess.send, 0, []

    def sent(process, task, pair, limit_s):
        nonlocal calls
        calls += 1
        if calls in sends:
            os.killpg(process._process.pid, signal.SIGSTOP)  # before it can answer
        took = send(process, task, pair, limit_s)
        if calls in sends:
            os.killpg(process._process.pid, signal.SIGKILL)
            killed.append(calls)
        return took

    monkeypatch.setattr(GradingProcess, "send", sent)
    return killed


def test_a_grader_that_dies_while_it_loads_is_replaced_twice(monkeypatch):
    start, deaths = GradingProcess.__init__, 2

    def started(process, timeout_s):
        nonlocal deaths
        start(process, timeout_s)
        deaths -= 1
        if deaths >= 0:
            process._process.kill()

    monkeypatch.setattr(GradingProcess, "__init__", started)
    pair = (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{\sqrt{2}}{2}")
    with AnswerGrader(num_workers=1, timeout_s=60.0) as grader:
        assert grader.grade([pair]) == [Verdict.CORRECT]
    deaths = 3
    with (
        AnswerGrader(num_workers=1) as grader,
        pytest.raises(RuntimeError, match=r"expected math-verify loaded .*, got 3 that were killed"),
    ):
        grader.grade([pair])


@pytest.mark.long
def test_a_dead_rank_is_restarted_and_a_signalled_one_stops_all(checkpoints, tmp_path):
    config = fault_config(checkpoints["qwen3"], tmp_path, "two")
    # as many prompts on either rank, so that they draw what one would
    rollout = replace(config.rollout, num_prompts=4)
    config = replace(config, run=replace(config.run, save_every=1), rollout=rollout)
    (tmp_path / "recipe.yaml").write_text(to_yaml(config))
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "--max-restarts", "1", str(TESTS / "training/faults/faulty_rank.py"), str(tmp_path / "recipe.yaml"),
    ]  # fmt: skip
    done = subprocess.run(command, env=ENVIRONMENT, cwd=TESTS.parent, capture_output=True, text=True)
    assert "Signal 9 (SIGKILL)" in done.stderr or "exitcode: -9" in done.stderr, done.stderr
    assert "SIGTERM: stopped with the checkpoint" in done.stderr, done.stderr
    assert "143" in done.stderr and done.returncode != 0
    run_stage(replace(config, run=replace(config.run, dir=str(tmp_path / "one"))))
    one, two = curve(tmp_path / "one"), curve(tmp_path / "two")
    assert [line["step"] for line in two] == [0, 1, 2, 3, 4]
    assert bits(tmp_path / "two", 4).keys() == bits(tmp_path / "one", 4).keys()
    for ours, theirs in zip(one[1:5], two[1:], strict=True):
        for name in ("reward", "grad_norm", "num_tokens"):
            assert theirs[name] == pytest.approx(ours[name], rel=1e-3), (ours["step"], name)
