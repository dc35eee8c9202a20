"""group_advantage in C++ on the CPU."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor

import fastrl._C as _C
from fastrl.kernels.config import AdvantageBaseline, AdvantageScale


def group_advantage_cpp(
    rewards: Tensor, group_ids: Tensor, scale: AdvantageScale, baseline: AdvantageBaseline, eps: float
) -> Tensor:
    rewards, group_ids = rewards.detach().contiguous(), group_ids.contiguous()
    out = torch.empty_like(rewards)
    _C.group_advantage_cpu(
        rewards=rewards.data_ptr(),
        group_ids=group_ids.data_ptr(),
        count=rewards.numel(),
        scale=get_args(AdvantageScale).index(scale),
        baseline=get_args(AdvantageBaseline).index(baseline),
        eps=eps,
        advantages=out.data_ptr(),
    )
    return out
