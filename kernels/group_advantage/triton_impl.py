"""group_advantage in Triton: one program per rollout, which reads all rewards; no host sync."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastrl.kernels.config import AdvantageBaseline, AdvantageScale

BLOCK = 1024
OPTIONS: dict[str, Any] = {"num_warps": 8, "maxnreg": 128, "enable_fp_fusion": False}
INFINITY = tl.constexpr(float("inf"))


def group_advantage_triton(
    rewards: Tensor, group_ids: Tensor, scale: AdvantageScale, baseline: AdvantageBaseline, eps: float
) -> Tensor:
    count = rewards.shape[0]
    out = torch.empty(count, dtype=torch.float32, device=rewards.device)
    if count:
        group_advantage_kernel[(count,)](
            rewards.contiguous(),
            group_ids.contiguous(),
            out,
            count,
            float(eps),
            SCALE=scale,
            BASELINE=baseline,
            BLOCK=BLOCK,
            **OPTIONS,
        )
    return out


@triton.jit  # type: ignore[untyped-decorator]
def _load(
    rewards: tl.tensor, group_ids: tl.tensor, group: tl.tensor, begin: tl.tensor, count: tl.tensor,
    BLOCK: tl.constexpr, WHOLE: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:  # fmt: skip
    """Return (rewards of a block, True for those in the group; with WHOLE for all)."""
    rollouts = begin + tl.arange(0, BLOCK)
    among = rollouts < count
    values = tl.load(rewards + rollouts, mask=among, other=0.0).to(tl.float64)
    if not WHOLE:
        among = among & (tl.load(group_ids + rollouts, mask=among, other=0) == group)
    return values, among


@triton.jit  # type: ignore[untyped-decorator]
def _moments(
    rewards: tl.tensor, group_ids: tl.tensor, group: tl.tensor, count: tl.tensor,
    BLOCK: tl.constexpr, WHOLE: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:  # fmt: skip
    """Return (size, mean, std, all equal) of the group's rewards; with WHOLE of all rewards."""
    size = tl.full((), 0.0, tl.float64)
    total = tl.full((), 0.0, tl.float64)
    least = tl.full((), INFINITY, tl.float64)
    largest = tl.full((), -INFINITY, tl.float64)
    for begin in range(0, count, BLOCK):
        values, among = _load(rewards, group_ids, group, begin, count, BLOCK, WHOLE)
        size += tl.sum(among.to(tl.float64), 0)
        total += tl.sum(tl.where(among, values, 0.0), 0)
        least = tl.minimum(least, tl.min(tl.where(among, values, INFINITY), 0))
        largest = tl.maximum(largest, tl.max(tl.where(among, values, -INFINITY), 0))
    mean = total / size
    squares = tl.full((), 0.0, tl.float64)
    for begin in range(0, count, BLOCK):
        values, among = _load(rewards, group_ids, group, begin, count, BLOCK, WHOLE)
        distance = tl.where(among, values - mean, 0.0)
        squares += tl.sum(distance * distance, 0)
    return size, mean, tl.sqrt(squares / tl.maximum(size - 1, 1.0)), least == largest


@triton.jit(do_not_specialize=("count", "eps"))  # type: ignore[untyped-decorator]
def group_advantage_kernel(
    rewards: tl.tensor, group_ids: tl.tensor, out: tl.tensor, count: tl.tensor, eps: tl.float64,
    SCALE: tl.constexpr, BASELINE: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    rollout = tl.program_id(0)
    group = tl.load(group_ids + rollout)
    centred = tl.load(rewards + rollout).to(tl.float64)
    size, mean, std, equal = _moments(rewards, group_ids, group, count, BLOCK, False)
    if BASELINE == "one":
        centred -= 1
    elif BASELINE != "zero":
        centred = tl.where(equal, 0.0, centred - mean)
        if BASELINE == "leave_one_out":
            centred *= tl.where(equal, 1.0, size / tl.maximum(size - 1, 1.0))
    if SCALE == "batch":
        _, _, std, equal = _moments(rewards, group_ids, group, count, BLOCK, True)
    if SCALE != "none":
        centred /= tl.where(equal, 1.0, std + eps)
    tl.store(out + rollout, centred.to(tl.float32))
