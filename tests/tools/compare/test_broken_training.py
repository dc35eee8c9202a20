"""Real training: another seed stays within the bands of eight seeds; broken training leaves them.

A CPU's rounding is another draw of every run, so both claims have to hold for almost every draw. The level
of the bands bounds the first: one sound run in a thousand leaves one of them. The task bounds the second:
rewards rise from a half to nearly all of 100 within the run.
"""

import pytest
from jsonl import write_jsonl

from fastrl.config import (
    DataConfig,
    ModelConfig,
    RewardConfig,
    RlConfig,
    RolloutConfig,
    RunConfig,
    TrainConfig,
)
from fastrl.stages import rl
from fastrl.tools.compare.findings import compare_run
from fastrl.tools.compare.pair import same_bits
from fastrl.tools.compare.reference import make_reference
from fastrl.tools.compare.runs import read_record

STEPS, LEVEL = 12, 0.999


@pytest.fixture(scope="module")
def trained(checkpoints, tmp_path_factory):
    """Trains a tiny model, which knows nothing, to write tokens of the second half of its vocabulary."""
    folder = tmp_path_factory.mktemp("runs")
    rows = [{"question": f"{a}+{b}=?", "answer": str(a + b)} for a in range(3) for b in range(2)]
    write_jsonl(folder / "problems.jsonl", rows)

    def train(name, seed, scale="std", learning_rate=3e-2):
        run = folder / name
        rl.run_rl(
            RlConfig(
                run=RunConfig(dir=str(run), seed=seed, device="cpu", save_every=0, log_completions_every=0),
                model=ModelConfig(path=str(checkpoints["qwen3"])),
                data=DataConfig(path=str(folder / "problems.jsonl")),
                rollout=RolloutConfig(num_prompts=4, group_size=16, max_new_tokens=8),
                reward=RewardConfig(functions=("compared.late_tokens",), weights=(100.0,), scale=scale),
                train=TrainConfig(num_steps=STEPS, learning_rate=learning_rate),
            )
        )
        return read_record(run)

    return train


@pytest.fixture(scope="module")
def reference(trained):
    return make_reference([trained(f"seed-{seed}", seed) for seed in range(8)], "eight seeds", level=LEVEL)


def drifted(run, reference):
    found = compare_run(run, reference, other_config=True)
    return {finding.metric: finding for finding in found.findings if finding.verdict != "inside"}


def test_another_seed_is_inside(trained, reference):
    assert drifted(trained("new", 11), reference) == {}


def test_the_same_seed_again_is_equal_bit_for_bit(trained, reference):
    again = trained("again", 3)
    found = same_bits(again, trained("seed-3", 3))  # the run that is there already
    assert found.parting is None and found.steps == STEPS + 1
    assert found.values > 30 * STEPS


def test_a_policy_that_does_not_learn_is_found(trained, reference):
    found = drifted(trained("still", 12, learning_rate=1e-9), reference)
    assert {"reward", "learning_rate"} <= set(found)
    assert found["reward"].value < found["reward"].band.low


def test_advantages_of_the_wrong_sign_are_found(trained, reference, monkeypatch):
    fill = rl.fill_advantages

    def turned(rollouts, *rest):
        fill(rollouts, *rest)
        for rollout in rollouts:
            rollout.advantage = -rollout.advantage

    monkeypatch.setattr(rl, "fill_advantages", turned)
    found = drifted(trained("turned", 13), reference)
    assert "learning_rate" not in found and found["reward"].value < found["reward"].band.low


@pytest.mark.long
def test_advantages_that_are_not_normalised_are_found(trained, reference):
    """They are in the rewards' units then, whose deviation is ten times one and more."""
    found = drifted(trained("unscaled", 14, scale="none"), reference)
    assert found["grad_norm"].value > found["grad_norm"].band.high
