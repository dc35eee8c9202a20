"""Rewards with TRL's signature: reward(prompts, completions, completion_ids, trainer_state=…, **columns)."""

from fastrl.rewards.answer import AnswerReward
from fastrl.rewards.format import FormatReward

__all__ = ["AnswerReward", "FormatReward"]
