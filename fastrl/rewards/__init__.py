"""Rewards with TRL's signature: reward(prompts, completions, completion_ids, trainer_state=…, **columns)."""

from fastrl.rewards.answer import AnswerReward
from fastrl.rewards.format import FormatReward
from fastrl.rewards.transfer import TransferReward
from fastrl.rewards.uplift import UpliftReward

__all__ = ["AnswerReward", "FormatReward", "TransferReward", "UpliftReward"]
