"""run.deterministic: the same bits for any micro-batches; drift metrics in whole runs."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch
from jsonl import write_jsonl
from safetensors.torch import load_file

from fastrl.config import (
    DataConfig,
    ModelConfig,
    RewardConfig,
    RlConfig,
    RolloutConfig,
    RunConfig,
    SftConfig,
    TrainConfig,
)
from fastrl.kernels.config import LossConfig
from fastrl.runtime.determinism import WORKSPACE, deterministic
from fastrl.runtime.run import read_metrics
from fastrl.train import run_stage

BUDGETS = (4096, 40)


@pytest.fixture
def problems(tmp_path):
    path = tmp_path / "problems.jsonl"
    rows = [
        {"prompt": f"{a}+{a + 1}", "answer": str(2 * a + 1), "completion": "=" * (1 + a)} for a in range(9)
    ]
    write_jsonl(path, rows)
    return path


def rl(checkpoints, problems, **changes) -> RlConfig:
    return RlConfig(
        model=ModelConfig(path=str(checkpoints["qwen3"])),
        data=DataConfig(path=str(problems), solution_column="answer"),
        rollout=RolloutConfig(num_prompts=3, group_size=3, max_new_tokens=9),
        reward=RewardConfig(functions=("reward_functions.vowels",), weights=(1.0,)),
        **changes,
    )


def sft(checkpoints, problems) -> SftConfig:
    return SftConfig(
        model=ModelConfig(path=str(checkpoints["llama"])),
        data=DataConfig(path=str(problems)),
        batch_size=5,
    )


def left_by(config, tmp_path, budget: int, same_bits: bool = True):
    """The weights and the metrics after two steps."""
    folder = tmp_path / f"{config.stage}-{budget}-{same_bits}"
    run = RunConfig(dir=str(folder), deterministic=same_bits, log_completions_every=0)
    train = replace(config.train, num_steps=2, learning_rate=1e-3, tokens_per_microbatch=budget)
    final = run_stage(replace(config, run=run, train=train))
    lines = read_metrics(folder / "metrics.jsonl")
    metrics = [{k: v for k, v in line.items() if not k.startswith("time/")} for line in lines]
    return load_file(final / "model.safetensors"), metrics


@pytest.mark.parametrize("stage", ["rl", "rl, off-policy with KL", "sft"])
def test_micro_batches_change_no_bit(checkpoints, problems, tmp_path, stage):
    config = {
        "rl": lambda: rl(checkpoints, problems),
        "rl, off-policy with KL": lambda: rl(
            checkpoints, problems, loss=LossConfig(kl_coef=0.1), train=TrainConfig(epochs_per_batch=2)
        ),
        "sft": lambda: sft(checkpoints, problems),
    }[stage]()
    (weights, metrics), (others, again) = (left_by(config, tmp_path, budget) for budget in BUDGETS)
    assert metrics == again and len(metrics) >= 2
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_without_it_the_bits_depend_on_them(checkpoints, problems, tmp_path):
    """And by no more than rounding: so the test above could fail."""
    config = sft(checkpoints, problems)
    (weights, _), (others, _) = (left_by(config, tmp_path, budget, same_bits=False) for budget in BUDGETS)
    assert not all(torch.equal(weights[name], others[name]) for name in weights)
    for name in weights:
        torch.testing.assert_close(weights[name], others[name], rtol=1e-3, atol=1e-4)


def test_torchs_mode_is_set_and_restored(monkeypatch):
    monkeypatch.delenv(WORKSPACE, raising=False)
    with deterministic(True):
        assert torch.are_deterministic_algorithms_enabled() and os.environ[WORKSPACE] == ":4096:8"
        assert not torch.backends.cudnn.benchmark
    assert not torch.are_deterministic_algorithms_enabled() and WORKSPACE not in os.environ
    with deterministic(False):
        assert not torch.are_deterministic_algorithms_enabled() and WORKSPACE not in os.environ
    monkeypatch.setenv(WORKSPACE, ":16:8")
    with pytest.raises(KeyError), deterministic(True):
        assert os.environ[WORKSPACE] == ":16:8"
        raise KeyError
    assert not torch.are_deterministic_algorithms_enabled() and os.environ[WORKSPACE] == ":16:8"


@pytest.mark.parametrize("epochs", [1, 2])
def test_every_step_measures_drift(checkpoints, problems, tmp_path, epochs):
    """float32 both: engine and trainer differ by rounding, on-policy and off-policy alike."""
    train = TrainConfig(epochs_per_batch=epochs)
    _, metrics = left_by(rl(checkpoints, problems, train=train), tmp_path, 200, same_bits=False)
    for line in metrics[-2:]:
        assert 0.999999 < line["drift/ess_tokens"] <= 1 + 1e-12
        assert 0.9999 < line["drift/ess_sequences"] <= 1 + 1e-12
        assert line["drift/share_beyond_2x"] == 0.0 and line["alarm/drift"] == 0.0
        assert (
            0
            < line["drift/log_ratio/mean"]
            <= line["drift/log_ratio/p90"]
            <= line["drift/log_ratio/max"]
            < 1e-4
        )
        # what the loss knows of the same tokens
        assert line["drift/log_ratio/max"] == pytest.approx(
            line["sampling/sampling_logp_difference/max"], rel=1e-5, abs=1e-9
        )
