"""group_advantage: the advantage of each rollout over its group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor

from fastrl.kernels._checks import check_device, check_dtype, check_shape, refuse
from fastrl.kernels._compiled import constant
from fastrl.kernels._dispatch import (
    Backend,
    Implementation,
    anywhere,
    cpu_only,
    device_of,
    pick,
    triton_only,
)
from fastrl.kernels.config import AdvantageBaseline, AdvantageScale
from fastrl.kernels.group_advantage.reference import group_advantage_reference

OP = "group_advantage"


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRewards:
    """Arguments of group_advantage, which a loss accepts instead of advantages."""

    rewards: Tensor
    group_ids: Tensor
    scale: AdvantageScale = "std"
    baseline: AdvantageBaseline = "mean"
    eps: float = 1e-4


def _cpp(
    rewards: Tensor, group_ids: Tensor, scale: AdvantageScale, baseline: AdvantageBaseline, eps: float
) -> Tensor:
    from fastrl.kernels.group_advantage.cpp_impl import group_advantage_cpp

    return group_advantage_cpp(rewards, group_ids, scale, baseline, eps)


def _triton(
    rewards: Tensor, group_ids: Tensor, scale: AdvantageScale, baseline: AdvantageBaseline, eps: float
) -> Tensor:
    from fastrl.kernels.group_advantage.triton_impl import group_advantage_triton

    return group_advantage_triton(rewards, group_ids, scale, baseline, eps)


IMPLEMENTATIONS = (
    Implementation("cpp", _cpp, cpu_only),
    Implementation("triton", _triton, triton_only),
    Implementation("reference", group_advantage_reference, anywhere),
)


def group_advantage(
    rewards: Tensor,
    group_ids: Tensor,
    *,
    scale: AdvantageScale = "std",
    baseline: AdvantageBaseline = "mean",
    eps: float = 1e-4,
    backend: Backend = "auto",
) -> Tensor:
    """Return the advantage of each rollout over its group (GRPO, RLOO).

        out[s] = (rewards[s] - b[s]) / d[s]
        b = mean of the group | mean of the others in the group | 0 | 1         (baseline)
        d = std of the group + eps | std of all rewards + eps | 1               (scale: std | batch | none)

    std divides by n - 1. If all rewards that d covers are bitwise equal, d is 1. In a group of equal rewards,
    or of size 1, the baselines mean and leave_one_out give exactly 0.

    Args:
        rewards: [S] float32, finite (checked only on a CPU, since on a GPU it would cost a host sync).
        group_ids: [S] int64, any values in any order; rollouts with equal ids form a group of any size.
        eps: >= 0.
    Returns: [S] float32.
    Raises:
        ValueError: shapes disagree, a reward is not finite, or an option is unknown.
        TypeError: any other dtype.
    Numerics: float64 inside.
    """
    check_dtype(OP, "rewards", rewards, torch.float32)
    check_dtype(OP, "group_ids", group_ids, torch.int64)
    if rewards.dim() != 1:
        refuse(OP, "rewards", "shape (S,)", tuple(rewards.shape))
    check_shape(OP, "group_ids", group_ids, rewards.shape)
    check_device(OP, "group_ids", group_ids, rewards.device)
    if scale not in get_args(AdvantageScale):
        refuse(OP, "scale", f"one of {get_args(AdvantageScale)}", scale)
    if baseline not in get_args(AdvantageBaseline):
        refuse(OP, "baseline", f"one of {get_args(AdvantageBaseline)}", baseline)
    if not eps >= 0:
        refuse(OP, "eps", ">= 0", eps)
    advantages: Tensor = group_advantage_op(
        rewards, group_ids, scale, baseline, eps, _choose(backend, rewards.device, rewards.dtype)
    )
    return advantages


@constant
def _choose(backend: str, device: torch.device, dtype: torch.dtype) -> str:
    return pick(OP, backend, IMPLEMENTATIONS, device, dtype).name


@torch.library.custom_op("fastrl::group_advantage", mutates_args=())
def group_advantage_op(
    rewards: Tensor, group_ids: Tensor, scale: str, baseline: str, eps: float, backend: str
) -> Tensor:
    if not rewards.is_cuda and not bool(rewards.isfinite().all()):
        refuse(OP, "rewards", "finite values", rewards.tolist())
    run = next(option for option in IMPLEMENTATIONS if option.name == backend).run
    with device_of(rewards):
        out: Tensor = run(rewards, group_ids, scale, baseline, eps)
    return out


@group_advantage_op.register_fake
def _(rewards: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(rewards)
