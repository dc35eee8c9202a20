"""Advantages of a step's rollouts, over all ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastrl.config import RewardConfig, RlConfig
from fastrl.ops import group_advantage
from fastrl.runtime.distributed import Ranks
from fastrl.training.parts import WeightedReward
from fastrl.training.truncation import is_masked
from fastrl.types import Rollout


def fill_advantages(
    rollouts: Sequence[Rollout], rewards: Sequence[WeightedReward], config: RlConfig, ranks: Ranks
) -> None:
    """Set every rollout's advantage = (reward - baseline) / scale within its group; 0 if no reward applies.

    A rollout that the loss masks has the advantage 0. With in_baseline its reward counts in the baseline and
    scale of the others; with out_of_baseline they are those of a step without it. A group or a step of which
    all rollouts are masked has the advantages 0.
    """
    masked = [is_masked(rollout, config.loss) for rollout in rollouts]
    own = [(r.group, r.reward, r.rewards, m) for r, m in zip(rollouts, masked, strict=True)]
    rows = ranks.gather(own)
    out_of_baseline = config.loss.mask_truncated_completions == "out_of_baseline"
    counted = [place for place, (*_, mask) in enumerate(rows) if not (mask and out_of_baseline)]
    advantage = torch.zeros(len(rows))
    advantage[counted] = step_advantages([rows[place][:3] for place in counted], rewards, config.reward)
    before = sum(ranks.gather([len(rollouts)])[: ranks.rank])
    values = advantage[before : before + len(rollouts)].tolist()
    for rollout, mask, value in zip(rollouts, masked, values, strict=True):
        rollout.advantage = 0.0 if mask else value


def step_advantages(
    rows: Sequence[tuple[int, float, dict[str, float | None]]],
    rewards: Sequence[WeightedReward],
    config: RewardConfig,
) -> Tensor:
    """Return the advantages of rollouts, given as (group, reward, rewards by name).

    With normalize_each every reward becomes an advantage first, and their weighted sum is standardised over
    the batch (GDPO; TRL's normalize_then_sum).
    """
    groups = torch.tensor([group for group, _, _ in rows], dtype=torch.int64)
    if not config.normalize_each:
        return advantages([reward for _, reward, _ in rows], groups, config)
    total = torch.zeros(len(rows))
    for reward in rewards:
        given = [v[reward.name] for _, _, v in rows]
        values = [math.nan if value is None else value for value in given]
        total += reward.weight * advantages(values, groups, config)
    return (total - total.mean()) / (total.std() + 1e-4) if len(total) > 1 else total


def advantages(values: Sequence[float], groups: Tensor, config: RewardConfig) -> Tensor:
    """Return group_advantage of the values that are not NaN, and 0 for the others."""
    rewards = torch.tensor(values, dtype=torch.float32)
    given = ~rewards.isnan()
    out = torch.zeros(len(values))
    out[given] = group_advantage(rewards[given], groups[given], scale=config.scale, baseline=config.baseline)
    return out
