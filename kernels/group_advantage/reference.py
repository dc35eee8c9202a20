"""Definition of group_advantage: a loop over groups, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from fastrl.kernels.config import AdvantageBaseline, AdvantageScale


def group_advantage_reference(
    rewards: Tensor, group_ids: Tensor, scale: AdvantageScale, baseline: AdvantageBaseline, eps: float
) -> Tensor:
    values = rewards.double()
    advantages = torch.zeros_like(values)
    for group in torch.unique(group_ids):
        rows = group_ids == group
        members = values[rows]
        equal = bool((members == members[0]).all())
        centred = torch.zeros_like(members) if equal else members - members.mean()
        if baseline == "zero":
            centred = members
        elif baseline == "one":
            centred = members - 1
        elif baseline == "leave_one_out" and not equal:
            centred = centred * members.numel() / (members.numel() - 1)
        advantages[rows] = centred / (members.std() + eps) if scale == "std" and not equal else centred
    if scale == "batch" and bool((values != values[:1]).any()):
        advantages = advantages / (values.std() + eps)
    return advantages.float()
