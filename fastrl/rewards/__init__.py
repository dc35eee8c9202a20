"""Rewards with TRL's signature: reward(prompts, completions, completion_ids, trainer_state=…, **columns)."""

from fastrl.methods.rltr.transfer import TransferReward
from fastrl.methods.tracelift.uplift import UpliftReward
from fastrl.rewards.answer import AnswerReward
from fastrl.rewards.format import FormatReward

__all__ = ["AnswerReward", "FormatReward", "TransferReward", "UpliftReward"]
