"""The ops as torch operators: torch.library's checks, and torch.compile."""

from __future__ import annotations

import pytest
import torch
from torch.library import opcheck

from fastrl.kernels._head import Scaling
from fastrl.kernels.group_advantage import group_advantage_op
from fastrl.kernels.grpo_loss.library import grpo_loss_op
from fastrl.kernels.linear_grpo_loss.library import encode, linear_grpo_loss_op
from fastrl.kernels.linear_logprob.library import linear_logprob_op
from fastrl.ops import GroupRewards, LossConfig, grpo_loss, linear_grpo_loss, linear_logprob

T, D, V = 9, 6, 40
CU = torch.tensor([0, 4, 9], dtype=torch.int32)
PLAIN = Scaling(1.0, 1.0, None, 0, 1.0)
# numbers that a compiled graph and an eager call may differ in: none, they run the same operator
CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")


def head_inputs():
    hidden = torch.randn(T, D, requires_grad=True)
    return hidden, torch.randn(V, D, requires_grad=True), torch.randint(0, V, (T,))


@pytest.mark.parametrize("backend", ["cpp", "torch"])
@pytest.mark.parametrize("support", [(0, 1.0), (5, 0.9)])
def test_linear_logprob(backend, support):
    hidden, weight, ids = head_inputs()
    scaling = Scaling(0.7, 1.0, 3.0, *support).encode()
    bias = torch.randn(V, requires_grad=True)
    opcheck(
        linear_logprob_op,
        (hidden, weight, bias, ids, None, scaling, 4, False, None, backend),
        test_utils=CHECKS,
    )


@pytest.mark.parametrize("loss_type", ["dapo", "gspo"])
def test_linear_grpo_loss(loss_type):
    hidden, weight, ids = head_inputs()
    batch = (CU, torch.randn(2), torch.rand(T) > 0.2, -torch.rand(T), None, None)
    config = LossConfig(loss_type=loss_type).encode()
    how = encode(None, False, False, 0.0, None)
    for needed in ([True, True, False], [True, False, False]):
        opcheck(
            linear_grpo_loss_op,
            (hidden, weight, None, ids, None, *batch, False, PLAIN.encode(), config, 3.0, how, "cpp", needed),
            test_utils=("test_schema", "test_faketensor"),
        )


@pytest.mark.parametrize("entropy_coef", [0.0, 0.1])
def test_grpo_loss(entropy_coef):
    logprobs, entropy = (-torch.rand(T)).requires_grad_(), torch.rand(T, requires_grad=entropy_coef > 0)
    batch = (CU, torch.randn(2), torch.rand(T) > 0.2, -torch.rand(T), None, None)
    config = LossConfig(entropy_coef=entropy_coef).encode()
    opcheck(grpo_loss_op, (logprobs, entropy, *batch, False, config, 3.0, "cpp"), test_utils=CHECKS)


def test_group_advantage():
    opcheck(group_advantage_op, (torch.rand(6), torch.tensor([0, 0, 1, 1, 1, 2]), "std", "mean", 1e-4, "cpp"))


def step(hidden, weight, ids, mask, rewards, config, denominator):
    """A caller's loss, all three ops in it."""
    advantages = GroupRewards(rewards=rewards, group_ids=torch.zeros(2, dtype=torch.int64))
    batch = {"cu_seqlens": CU, "loss_mask": mask, "config": config, "denominator": denominator}
    fused = linear_grpo_loss(hidden * 2, weight, ids, advantages=advantages, **batch)
    scored = linear_logprob(hidden, weight, ids, temperature=0.8)
    apart = grpo_loss(scored.logprobs, advantages=rewards, **batch)
    return fused.loss + apart.loss, fused.stats["ratio_sum"] + apart.stats["ratio_max"]


@pytest.mark.slow
def test_a_compiled_caller_is_one_graph():
    hidden, weight, ids = head_inputs()
    mask, rewards = torch.rand(T) > 0.2, torch.tensor([0.0, 1.0])
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for config, denominator in (
        (LossConfig(), 3.0),
        (LossConfig(loss_type="gspo"), 4.0),
        (LossConfig(), 5.0),
    ):
        results = []
        for function in (step, compiled):
            loss, stat = function(hidden, weight, ids, mask, rewards, config, denominator)
            results.append((loss.detach(), stat, *torch.autograd.grad(loss, (hidden, weight))))
        for eager, graph in zip(*results, strict=True):
            torch.testing.assert_close(graph, eager)


def test_a_compiled_caller_sees_bad_values_refused():
    hidden, weight, ids = head_inputs()
    mask, rewards = torch.ones(T, dtype=torch.bool), torch.tensor([0.0, 1.0])
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    with pytest.raises(ValueError, match=r"ids: expected values in \[0, 40\)"):
        compiled(hidden, weight, ids + V, mask, rewards, LossConfig(), 3.0)
