"""Bad gradients: which ones count, that they change nothing, and that a resumed run judges alike."""

from __future__ import annotations

import math
import os
import signal
from dataclasses import replace

import pytest
import torch
from fault_world import bits, fault_config
from tiny_rl import curve

from fastrl.config import TrainConfig
from fastrl.policy.bad_steps import BadSteps
from fastrl.runtime.errors import Interrupted
from fastrl.train import run_stage
from fastrl.training import update

NAN, INF = math.nan, math.inf


def skipped(config: TrainConfig, norms: list[float], state=None) -> list[bool]:
    judge = BadSteps(config, state)
    return [judge.skips(norm, step) for step, norm in enumerate(norms)]


def test_so_many_in_a_row_and_no_more():
    config = TrainConfig(max_bad_steps=2)
    assert skipped(config, [1.0, NAN, INF, 2.0, -INF, NAN, 0.0]) == [
        False, True, True, False, True, True, False
    ]  # fmt: skip
    with pytest.raises(FloatingPointError, match=r"norm is inf at step 3: .* 3 in a row and 3 of the last 4"):
        skipped(config, [1.0, NAN, NAN, INF])


def test_the_first_one_ends_training_by_default():
    with pytest.raises(FloatingPointError, match="gradient norm is nan at step 1"):
        skipped(TrainConfig(), [1.0, NAN])


def test_more_than_a_tenth_of_a_hundred_is_too_many():
    every_third = [1.0, 1.0, NAN] * 10
    assert sum(skipped(TrainConfig(max_bad_steps=5), every_third)) == 10
    with pytest.raises(FloatingPointError, match="11 of the last 33"):
        skipped(TrainConfig(max_bad_steps=5), [*every_third, 1.0, 1.0, NAN])
    apart = ([1.0] * 10 + [NAN]) * 20
    assert sum(skipped(TrainConfig(max_bad_steps=5), apart)) == 20


def test_a_spike_is_measured_by_the_median_of_what_was_applied():
    config = TrainConfig(max_bad_steps=3, spike_factor=4.0)
    # nine norms are too few, and zeros are none; then the median of ten is 6.5, and of eleven with 26 it is 7
    first = [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 7.0, 8.0, 9.0, 100.0]
    assert not any(skipped(config, first))
    assert skipped(config, [*first, 10.0, 26.1, 26.0, 28.1])[-4:] == [False, True, False, True]
    with pytest.raises(FloatingPointError, match=r"norm is 30 at step 10, more than 2 times the median 5"):
        skipped(TrainConfig(spike_factor=2.0), [5.0] * 10 + [30.0])


def test_a_state_resumes_where_it_was():
    config = TrainConfig(max_bad_steps=1, spike_factor=2.0)
    judge = BadSteps(config)
    for step in range(10):
        judge.skips(1.0 + step / 10, step)
    assert judge.skips(NAN, 10) and judge.metrics() == {"bad_steps": 1.0}
    assert judge.metrics() == {"bad_steps": 0.0}
    with pytest.raises(FloatingPointError, match="2 in a row"):
        BadSteps(config, judge.state()).skips(2.91, 11)
    assert not BadSteps(config, judge.state()).skips(2.89, 11)
    assert BadSteps(TrainConfig()).metrics() == {}


@pytest.fixture
def spoilt(monkeypatch):
    """The gradients of steps 2 and 4 (counted from 0) are NaN in one place, whatever happens before."""
    real = update.apply_gradients

    def apply(policy, optimizer, config, step, *rest):
        if step in (2, 4):
            next(iter(policy.parameters())).grad.view(-1)[1] = NAN
        return real(policy, optimizer, config, step, *rest)

    monkeypatch.setattr(update, "apply_gradients", apply)


def test_what_is_skipped_changes_nothing_and_a_resumed_run_is_the_whole_one(
    checkpoints, tmp_path, spoilt, monkeypatch
):
    train = TrainConfig(num_steps=6, learning_rate=1e-3, max_bad_steps=1)
    configs = []
    for name in ("whole", "ended"):
        config = fault_config(checkpoints["qwen3"], tmp_path, name, train=train)
        configs.append(replace(config, run=replace(config.run, save_every=1)))
    run_stage(configs[0])
    lines = curve(tmp_path / "whole")
    assert [line["bad_steps"] for line in lines[1:]] == [0, 0, 1, 0, 1, 0]
    assert lines[3]["grad_norm"] is None and lines[2]["grad_norm"] > 0
    assert bits(tmp_path / "whole", 2) == bits(tmp_path / "whole", 3) != bits(tmp_path / "whole", 4)

    sync = torch.manual_seed
    calls = iter(range(100))

    def told(seed):
        if next(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return sync(seed)

    monkeypatch.setattr(torch, "manual_seed", told)
    with pytest.raises(Interrupted):
        run_stage(configs[1])
    assert len(curve(tmp_path / "ended")) == 4
    run_stage(configs[1])
    assert curve(tmp_path / "ended") == lines
    assert bits(tmp_path / "ended") == bits(tmp_path / "whole")


def test_a_run_that_stopped_at_a_bad_step_resumes_with_a_higher_limit(checkpoints, tmp_path, spoilt):
    config = fault_config(checkpoints["qwen3"], tmp_path)
    with pytest.raises(FloatingPointError, match="at step 2"):
        run_stage(config)
    assert [line["step"] for line in curve(tmp_path / "run")] == [0, 1, 2]
    run_stage(replace(config, train=replace(config.train, max_bad_steps=1)))
    assert [line["step"] for line in curve(tmp_path / "run")] == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("factor", [1.0, 0.5, -3.0, math.nan])
def test_a_factor_that_is_none_is_refused(factor):
    with pytest.raises(ValueError, match=r"\[train\] spike_factor: expected a number > 1 or null, got"):
        TrainConfig(spike_factor=factor)
