"""Truncated completions: masks in and out of the baseline, steps of nothing else, and the warning."""

from dataclasses import replace

import pytest
import torch
from accumulated import gradients, rollouts
from tiny_rl import curve, tiny_rl, write_additions

from fastrl.config import ModelConfig, RewardConfig, RlConfig, RolloutConfig, TrainConfig
from fastrl.data.problems import Problem
from fastrl.kernels.config import LossConfig
from fastrl.policy.model import Policy
from fastrl.runtime.distributed import Ranks
from fastrl.train import run_stage
from fastrl.training.advantages import fill_advantages
from fastrl.training.alarm import CLIPPED
from fastrl.training.parts import WeightedReward
from fastrl.training.sample import Group, has_signal, reward_rollouts
from fastrl.training.truncation import TruncationWarning
from fastrl.training.update import accumulate_gradients, carries_gradient
from fastrl.types import Rollout

CPU = torch.device("cpu")
MASKS = ("in_baseline", "out_of_baseline")


def step(*groups: list[tuple[float, str]]) -> list[Rollout]:
    """groups: (reward, finish reason) of each rollout."""
    return [
        Rollout([4], [5], [-1.0], "", reason, group=number, reward=reward, rewards={"r": reward})
        for number, group in enumerate(groups)
        for reward, reason in group
    ]


def advantages(mask: str, *groups: list[tuple[float, str]], **reward) -> list[float]:
    config = RlConfig(
        loss=LossConfig(mask_truncated_completions=mask),
        reward=RewardConfig(functions=("r",), weights=(1.0,), **{"scale": "none", **reward}),
    )
    todo = step(*groups)
    fill_advantages(todo, [WeightedReward("r", lambda: None, 1.0)], config, Ranks())
    return [rollout.advantage for rollout in todo]


GROUP = [(1.0, "stop"), (0.0, "stop"), (0.0, "length"), (0.0, "length")]


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        # the mean of all four is 1/4, that of the finished two 1/2
        ("none", [0.75, -0.25, -0.25, -0.25]),
        ("in_baseline", [0.75, -0.25, 0, 0]),
        ("out_of_baseline", [0.5, -0.5, 0, 0]),
    ],
)
def test_advantages_by_hand(mask, expected):
    assert advantages(mask, GROUP) == expected


def test_the_scales_follow_the_baseline():
    # std of (1, 0, 0, 0) is 1/2, of (1, 0) it is sqrt(1/2)
    for scale in ("std", "batch"):
        found = advantages("in_baseline", GROUP, scale=scale)
        assert found == pytest.approx([0.75 / 0.5001, -0.25 / 0.5001, 0, 0])
        found = advantages("out_of_baseline", GROUP, scale=scale)
        assert found == pytest.approx([0.5 / (0.5**0.5 + 1e-4), -0.5 / (0.5**0.5 + 1e-4), 0, 0])
    # leave_one_out: means of the others are 0 and 1/3 of all, 0 and 1 of the finished
    assert advantages("in_baseline", GROUP, baseline="leave_one_out") == pytest.approx([1, -1 / 3, 0, 0])
    assert advantages("out_of_baseline", GROUP, baseline="leave_one_out") == [1, -1, 0, 0]


def test_normalize_each_standardises_over_those_that_count():
    other = [(1.0, "stop"), (0.0, "stop")]
    left_out = advantages("out_of_baseline", GROUP, other, normalize_each=True)
    without = advantages("none", GROUP[:2], other, normalize_each=True)
    assert left_out == [*without[:2], 0, 0, *without[2:]]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("normalize_each", [False, True])
def test_groups_and_steps_of_truncated_completions_have_no_advantage(mask, normalize_each):
    cut = [(1.0, "length"), (0.0, "length")]
    assert advantages(mask, cut, normalize_each=normalize_each) == [0, 0]
    alone = advantages(mask, cut, cut, normalize_each=normalize_each, scale="batch")
    assert alone == [0, 0, 0, 0]
    # a group with one finished completion: its own mean out of the baseline, the group's in it
    found = advantages(mask, [(1.0, "stop"), (0.0, "length")])
    assert found == ([0.5, 0] if mask == "in_baseline" else [0, 0])


def test_every_rank_counts_the_same_completions():
    """Two ranks, a group each; both fill the advantages that one rank gives the whole step."""
    second = [(0.5, "length"), (1.0, "stop"), (0.0, "stop")]
    whole = advantages("out_of_baseline", GROUP, second, scale="batch")
    gathered = []

    class Two(Ranks):
        def gather(self, values):
            return gathered if isinstance(values[0], tuple) else [4, 3]

    todo = step(GROUP, second)
    gathered += [(r.group, r.reward, r.rewards, r.finish_reason == "length") for r in todo]
    config = RlConfig(
        loss=LossConfig(mask_truncated_completions="out_of_baseline"), reward=RewardConfig(scale="batch")
    )
    for rank, own in enumerate((todo[:4], todo[4:])):
        fill_advantages(own, [], config, Two(rank, 2))
    assert [rollout.advantage for rollout in todo] == whole


@pytest.mark.parametrize(
    ("group", "none", "in_baseline", "out_of_baseline"),
    [
        (GROUP, True, True, True),
        ([(1.0, "stop"), (0.0, "length")], True, True, False),
        ([(1.0, "length"), (0.0, "length")], True, False, False),
        ([(1.0, "stop"), (1.0, "stop"), (0.0, "length")], True, True, False),
        ([(float("nan"), "stop"), (1.0, "length"), (0.0, "length")], True, False, False),
    ],
)
def test_dynamic_sampling_keeps_groups_that_can_be_learnt_from(group, none, in_baseline, out_of_baseline):
    found = [
        has_signal(step(group), LossConfig(mask_truncated_completions=mask)) for mask in ("none", *MASKS)
    ]
    assert found == [none, in_baseline, out_of_baseline]


def cut_off(todo: list[Rollout], *places: int) -> list[Rollout]:
    return [replace(r, finish_reason="length") if i in places else r for i, r in enumerate(todo)]


def config(**loss) -> RlConfig:
    return RlConfig(
        rollout=RolloutConfig(max_new_tokens=40),
        reward=RewardConfig(baseline="leave_one_out"),
        loss=LossConfig(mask_truncated_completions="in_baseline", **loss),
    )


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo", "bnpo", "gspo", "cispo", "rloo"])
@pytest.mark.parametrize("extra", [{}, {"kl_coef": 0.1, "entropy_coef": 0.01}])
def test_the_gradient_is_that_of_a_step_without_them(checkpoints, loss_type, extra):
    """As in TRL: a mean over tokens leaves their tokens out; a mean over sequences counts them as 0."""
    todo = cut_off(rollouts(260), 1, 4)
    found = gradients(checkpoints["qwen3"], config(loss_type=loss_type, **extra), todo, old_noise=0.0)
    kept = [r for r in todo if r.finish_reason == "stop"]
    without = gradients(checkpoints["qwen3"], config(loss_type=loss_type, **extra), kept, old_noise=0.0)
    share = len(kept) / len(todo) if loss_type in ("grpo", "dr_grpo", "gspo") else 1.0
    for a, b in zip(found, without, strict=True):
        torch.testing.assert_close(a, b * share, rtol=1e-4, atol=1e-6)
    assert any(grad.abs().max() > 1e-6 for grad in found)


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo"])
def test_a_step_of_truncated_completions_has_gradient_zero(checkpoints, loss_type):
    todo = cut_off(rollouts(260), *range(6))
    settings = config(loss_type=loss_type, kl_coef=0.1, entropy_coef=0.1)
    assert not any(carries_gradient(rollout, settings) for rollout in todo)
    policy = Policy.load(ModelConfig(path=str(checkpoints["qwen3"])), CPU)
    none = [None] * len(todo)
    accumulate_gradients(policy, todo, range(6), none, none, settings, Ranks(), stats := {})
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in policy.parameters())
    assert float(stats.get("loss_sum", 0.0)) == 0


@pytest.mark.trains
@pytest.mark.parametrize("mask", ["none", *MASKS])
def test_a_run_of_truncated_completions(checkpoints, tmp_path, mask, capsys):
    """One token is no answer's end: nothing is learnt, the weights stay, and a line says why."""
    run = tiny_rl(
        checkpoints["qwen3"], write_additions(tmp_path / "problems.jsonl"), tmp_path / "run",
        rollout=RolloutConfig(num_prompts=3, group_size=4, max_new_tokens=1),
        reward=RewardConfig(functions=("reward_functions.odd",), weights=(1.0,)),
        train=TrainConfig(num_steps=2, learning_rate=1e-2),
        loss=LossConfig(mask_truncated_completions=mask, kl_coef=0.1),
    )  # fmt: skip
    final = run_stage(run)
    lines = curve(tmp_path / "run")[1:]
    assert [line[CLIPPED] for line in lines] == [1, 1]
    shown = capsys.readouterr().err
    warning = "100% of the step's completions were cut off at rollout.max_new_tokens 1; they are "
    assert shown.count(warning) == 1 and ("they are masked" in shown) == (mask != "none")
    start = Policy.load(ModelConfig(path=str(checkpoints["qwen3"])), CPU)
    end = Policy.load(ModelConfig(path=str(final)), CPU)
    stayed = all(torch.equal(a, b) for a, b in zip(start.parameters(), end.parameters(), strict=True))
    assert stayed == (mask != "none")
    assert all((line["grad_norm"] == 0) == (mask != "none") for line in lines)
    if mask != "none":
        assert all(line["loss"] == 0 and line["frac_zero_advantage"] == 1 for line in lines)


def test_reward_functions_are_told_why_a_completion_ended():
    seen = {}

    def listening(completions, finish_reasons, **columns):
        seen["reasons"] = finish_reasons
        return [float(reason == "stop") for reason in finish_reasons]

    problem = Problem(index=0, messages=[{"role": "user", "content": "?"}], solution="1",
                      columns={"finish_reasons": "a column of the file"})  # fmt: skip
    groups = [
        Group(draw=number, problem=problem, rollouts=group, voters=[])
        for number, group in enumerate((step(GROUP), step([(0.0, "length"), (0.0, "stop")])))
    ]
    reward_rollouts([WeightedReward("r", listening, 2.0)], groups, step=0, metrics={})
    assert seen["reasons"] == ["stop", "stop", "length", "length", "length", "stop"]
    assert [r.reward for group in groups for r in group.rollouts] == [2, 2, 0, 0, 0, 2]


def judged(shares: list[float | None], seen: int = 0) -> list[int]:
    """Return the places of the shares that are warned about, after a resume behind the first `seen`."""
    lines = [{} if share is None else {CLIPPED: share} for share in shares]
    truncation = TruncationWarning(RlConfig(), lines[:seen])
    return [place for place, line in enumerate(lines[seen:], start=seen) if truncation.judge(line)]


def test_the_warning_comes_above_a_tenth_and_again_when_the_share_has_doubled():
    shares = [None, 0.1, 0.11, 0.15, 0.21, 0.22, 0.3, 0.05, 0.2, 0.45, 1.0, 1.0]
    assert judged(shares) == [2, 5, 9, 10]
    assert judged(shares, seen=6) == [9, 10]
    (line,) = TruncationWarning(RlConfig()).judge({CLIPPED: 0.25})
    assert line == (
        "25% of the step's completions were cut off at rollout.max_new_tokens 512; they are trained on; "
        "loss.mask_truncated_completions masks them"
    )
