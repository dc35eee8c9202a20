"""Advantages of a step's rollouts, over all ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastrl.config import RewardConfig
from fastrl.ops import group_advantage
from fastrl.runtime.distributed import Ranks
from fastrl.training.parts import WeightedReward
from fastrl.types import Rollout


def fill_advantages(
    rollouts: Sequence[Rollout], rewards: Sequence[WeightedReward], config: RewardConfig, ranks: Ranks
) -> None:
    """Set every rollout's advantage = (reward - baseline) / scale within its group; 0 if no reward applies.

    With normalize_each every reward becomes an advantage first, and their weighted sum is standardised over
    the batch (GDPO; TRL's normalize_then_sum).
    """
    all_rollouts = ranks.gather([(r.group, r.reward, r.rewards) for r in rollouts])
    groups = torch.tensor([group for group, _, _ in all_rollouts], dtype=torch.int64)
    if config.normalize_each:
        total = torch.zeros(len(all_rollouts))
        for reward in rewards:
            given = [v[reward.name] for _, _, v in all_rollouts]
            values = [math.nan if value is None else value for value in given]
            total += reward.weight * advantages(values, groups, config)
        advantage = (total - total.mean()) / (total.std() + 1e-4) if len(total) > 1 else total
    else:
        advantage = advantages([reward for _, reward, _ in all_rollouts], groups, config)
    before = sum(ranks.gather([len(rollouts)])[: ranks.rank])
    for rollout, value in zip(rollouts, advantage[before : before + len(rollouts)].tolist(), strict=True):
        rollout.advantage = value


def advantages(values: Sequence[float], groups: Tensor, config: RewardConfig) -> Tensor:
    """Return group_advantage of the values that are not NaN, and 0 for the others."""
    rewards = torch.tensor(values, dtype=torch.float32)
    given = ~rewards.isnan()
    out = torch.zeros(len(values))
    out[given] = group_advantage(rewards[given], groups[given], scale=config.scale, baseline=config.baseline)
    return out
