"""Triton's group_advantage against the definition; without a GPU in Triton's interpreter."""

from __future__ import annotations

import math

import pytest
import torch

from fastrl.kernels.group_advantage.reference import group_advantage_reference

triton = pytest.importorskip("triton", reason="triton is not installed")
if not torch.cuda.is_available() and isinstance(triton.language.sum, triton.JITFunction):
    pytest.skip("no GPU, nor TRITON_INTERPRET=1 when triton was imported", allow_module_level=True)

from fastrl.kernels.group_advantage import triton_impl  # noqa: E402
from fastrl.kernels.group_advantage.triton_impl import group_advantage_triton  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SCALES = ("std", "none", "batch")
BASELINES = ("mean", "leave_one_out", "zero", "one")


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("count", [0, 1, 2, 37])
def test_against_the_definition(scale, baseline, count, poisoned, monkeypatch):
    monkeypatch.setattr(triton_impl, "BLOCK", 16)
    rewards = torch.tensor([0.0, 1.0, 0.1, 0.3, -2.5, 1e-3], device=DEVICE)
    rewards = rewards[torch.randint(6, (count,), device=DEVICE)]
    group_ids = torch.randint(-3, 4, (count,), device=DEVICE) * 2**40
    out = group_advantage_triton(rewards, group_ids, scale, baseline, 1e-4)
    expected = group_advantage_reference(rewards, group_ids, scale, baseline, 1e-4)
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-7)


def test_hand_worked():
    # mean 1/2, std sqrt(1/3); the second group has mean 1, std sqrt(2)
    rewards = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0, 2.0], device=DEVICE)
    out = group_advantage_triton(rewards, torch.tensor([3, 3, 3, 3, 0, 0], device=DEVICE), "std", "mean", 0.0)
    a, b = math.sqrt(3) / 2, 1 / math.sqrt(2)
    torch.testing.assert_close(out.cpu(), torch.tensor([a, -a, -a, a, -b, b]))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("baseline", ["mean", "leave_one_out"])
def test_equal_rewards_are_exactly_zero(scale, baseline):
    rewards = torch.tensor([0.1, 0.1, 0.1, 0.7, 0.0, 1.0], device=DEVICE)
    out = group_advantage_triton(
        rewards, torch.tensor([0, 0, 0, 1, 2, 2], device=DEVICE), scale, baseline, 0.0
    )
    assert out[:4].tolist() == [0.0, 0.0, 0.0, 0.0]
    assert out[4] < 0 < out[5]


@pytest.mark.parametrize("scale", SCALES)
def test_rewards_that_are_all_equal(scale):
    rewards, group_ids = torch.full((5,), 0.1, device=DEVICE), torch.arange(5, device=DEVICE) % 2
    assert group_advantage_triton(rewards, group_ids, scale, "mean", 0.0).tolist() == [0.0] * 5
    assert torch.equal(group_advantage_triton(rewards, group_ids, scale, "zero", 0.0), rewards)


def test_almost_equal_rewards_are_not_equal():
    above = torch.nextafter(torch.tensor(0.1), torch.tensor(1.0)).item()
    group_ids = torch.zeros(2, dtype=torch.int64, device=DEVICE)
    out = group_advantage_triton(torch.tensor([0.1, above], device=DEVICE), group_ids, "std", "mean", 0.0)
    torch.testing.assert_close(out.cpu(), torch.tensor([-1.0, 1.0]) / math.sqrt(2))
