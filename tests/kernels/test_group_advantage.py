from __future__ import annotations

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrl.ops import group_advantage

BACKENDS = ("cpp", "reference")
SCALES = ("std", "none", "batch")
BASELINES = ("mean", "leave_one_out", "zero", "one")


def oracle(rewards: list[float], ids: list[int], scale: str, baseline: str, eps: float) -> list[float]:
    out = []
    for reward, group in zip(rewards, ids, strict=True):
        members = [r for r, g in zip(rewards, ids, strict=True) if g == group]
        equal = len(set(members)) == 1
        if baseline in ("mean", "leave_one_out"):
            centred = 0.0 if equal else reward - statistics.fmean(members)
            if baseline == "leave_one_out" and not equal:
                centred = reward - (math.fsum(members) - reward) / (len(members) - 1)
        else:
            centred = reward - (1.0 if baseline == "one" else 0.0)
        spread = members if scale == "std" else rewards
        scaled = scale != "none" and len(set(spread)) > 1
        out.append(centred / (statistics.stdev(spread) + eps) if scaled else centred)
    return out


@pytest.mark.parametrize("backend", BACKENDS)
def test_hand_worked(backend):
    # mean 1/2, std sqrt(1/3); the second group has mean 1, std sqrt(2)
    out = group_advantage(
        torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0, 2.0]),
        torch.tensor([3, 3, 3, 3, 0, 0]),
        eps=0.0,
        backend=backend,
    )
    a, b = math.sqrt(3) / 2, 1 / math.sqrt(2)
    torch.testing.assert_close(out, torch.tensor([a, -a, -a, a, -b, b]))


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.sampled_from([0.0, 1.0, 0.1, 0.3, -2.5, 1e-3]), st.integers(-2, 2)),
        min_size=1,
        max_size=24,
    ),
    scale=st.sampled_from(SCALES),
    baseline=st.sampled_from(BASELINES),
)
def test_against_the_oracle(backend, rows, scale, baseline):
    rewards = torch.tensor([reward for reward, _ in rows])
    ids = [group for _, group in rows]
    out = group_advantage(rewards, torch.tensor(ids), scale=scale, baseline=baseline, backend=backend)
    expected = oracle(rewards.tolist(), ids, scale, baseline, 1e-4)
    torch.testing.assert_close(out, torch.tensor(expected), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("baseline", ["mean", "leave_one_out"])
def test_equal_rewards_are_exactly_zero(backend, scale, baseline):
    # 0.1 three times: the rounded mean is not 0.1, and the noise over eps would be a gradient
    rewards = torch.tensor([0.1, 0.1, 0.1, 0.7, 0.0, 1.0])
    out = group_advantage(
        rewards, torch.tensor([0, 0, 0, 1, 2, 2]), scale=scale, baseline=baseline, eps=0.0, backend=backend
    )
    assert out[:4].tolist() == [0.0, 0.0, 0.0, 0.0]
    assert out[4] < 0 < out[5]


@pytest.mark.parametrize("backend", BACKENDS)
def test_almost_equal_rewards_are_not_equal(backend):
    above = torch.nextafter(torch.tensor(0.1), torch.tensor(1.0)).item()
    out = group_advantage(torch.tensor([0.1, above]), torch.tensor([0, 0]), eps=0.0, backend=backend)
    torch.testing.assert_close(out, torch.tensor([-1.0, 1.0]) / math.sqrt(2))


@pytest.mark.parametrize("backend", BACKENDS)
def test_order_and_labels_do_not_matter(backend):
    rewards, ids = torch.rand(40), torch.randint(0, 7, (40,))
    out = group_advantage(rewards, ids, backend=backend)
    order = torch.randperm(40)
    shuffled = group_advantage(rewards[order], (ids * -1000 + 5)[order], backend=backend)
    torch.testing.assert_close(shuffled, out[order], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty(backend):
    out = group_advantage(torch.zeros(0), torch.zeros(0, dtype=torch.int64), scale="batch", backend=backend)
    assert out.shape == (0,)


def test_strided_and_poisoned(poisoned):
    rewards = torch.rand(20)[::2]
    ids = torch.arange(20)[::2] // 8
    torch.testing.assert_close(
        group_advantage(rewards, ids, backend="cpp"), group_advantage(rewards, ids, backend="reference")
    )


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"rewards": torch.tensor([1.0, math.nan])}, ValueError, "rewards: expected finite"),
        ({"rewards": torch.tensor([1.0, math.inf])}, ValueError, "rewards: expected finite"),
        ({"rewards": torch.zeros(2, dtype=torch.float64)}, TypeError, "rewards: expected torch.float32"),
        ({"rewards": torch.zeros(2, 1)}, ValueError, r"rewards: expected shape \(S,\)"),
        ({"group_ids": torch.zeros(3, dtype=torch.int64)}, ValueError, r"group_ids: expected shape \(2,\)"),
        ({"group_ids": torch.zeros(2)}, TypeError, "group_ids: expected torch.int64"),
        ({"scale": "group"}, ValueError, "scale: expected one of"),
        ({"baseline": "median"}, ValueError, "baseline: expected one of"),
        ({"eps": -1.0}, ValueError, "eps: expected >= 0"),
    ],
)
def test_refusals(change, error, words):
    arguments = {"rewards": torch.tensor([1.0, 0.0]), "group_ids": torch.tensor([0, 0])} | change
    with pytest.raises(error, match=rf"\[group_advantage\] {words}"):
        group_advantage(arguments.pop("rewards"), arguments.pop("group_ids"), **arguments)
