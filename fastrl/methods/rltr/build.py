"""Builds the transfer reward of an RL run."""

from __future__ import annotations

from fastrl.config import RlConfig
from fastrl.methods.rltr.transfer import TransferReward
from fastrl.training.reward_inputs import RewardInputs


def transfer_reward(inputs: RewardInputs) -> TransferReward:
    """Load the receiver and build the reward around it."""
    config = inputs.config
    return TransferReward(
        inputs.engine("receiver"), inputs.policy.tokenizer, inputs.grader, config.transfer,
        max_new_tokens=config.rollout.max_new_tokens, seed=config.run.seed,
        ref_temperature=config.rollout.temperature if receiver_is_reference(config) else None,
    )  # fmt: skip


def receiver_is_reference(config: RlConfig) -> bool:
    """Return True if the receiver is the policy's initial model, so its prefill also gives ref_logprobs."""
    transfer = config.transfer
    same_start = config.uses_transfer and transfer.receiver.path == config.model.path
    return bool(config.loss.kl_coef) and same_start and transfer.mode != "teacher"
