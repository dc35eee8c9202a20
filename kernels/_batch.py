"""A packed batch: the inputs of the policy losses other than scores."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastrl.kernels._checks import (
    FLOATS,
    check_bounds,
    check_cu_seqlens,
    check_device,
    check_dtype,
    check_shape,
    check_token_vector,
    refuse,
)
from fastrl.kernels.config import LossConfig
from fastrl.kernels.group_advantage import GroupRewards, group_advantage


@dataclass(frozen=True, slots=True)
class LossBatch:
    """T packed tokens of S sequences: all inputs of the loss except the scores."""

    cu_seqlens: Tensor
    """[S + 1] int32."""
    advantages: Tensor
    """[S], or [T] if advantages_per_token; any float dtype."""
    advantages_per_token: bool
    loss_mask: Tensor
    """[T] bool."""
    old_logprobs: Tensor | None
    """[T], any float dtype, like the next two."""
    ref_logprobs: Tensor | None
    rollout_logprobs: Tensor | None
    config: LossConfig
    denominator: float

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """Return the tensors in the order of the operators' arguments."""
        others = (self.old_logprobs, self.ref_logprobs, self.rollout_logprobs)
        return (self.cu_seqlens, self.advantages, self.loss_mask, *others)

    @property
    def needs_whole_sequences(self) -> bool:
        """True if a token's gradient needs the log-probs of its whole sequence."""
        ratio = self.config.loss_type == "gspo" and self.old_logprobs is not None
        return ratio or (self.config.corrects_sequences and self.rollout_logprobs is not None)

    @property
    def skips_zero_advantage(self) -> bool:
        """True if tokens with advantage 0 have no gradient, so that they can be skipped."""
        return self.config.kl_coef == 0 and self.config.entropy_coef == 0


def make_batch(
    op: str,
    tokens: Tensor,
    cu_seqlens: Tensor,
    advantages: Tensor | GroupRewards,
    loss_mask: Tensor,
    optional: tuple[Tensor | None, Tensor | None, Tensor | None],
    config: LossConfig,
    denominator: float,
) -> LossBatch:
    """Return the batch of an op's arguments, checked against `tokens`, whose first dimension is T.

    Args:
        optional: old, ref and rollout log-probs.
    Raises: ValueError, TypeError: an argument has a wrong shape, device, dtype or value.
    """
    if isinstance(advantages, GroupRewards):
        given = advantages
        advantages = group_advantage(
            given.rewards, given.group_ids, scale=given.scale, baseline=given.baseline, eps=given.eps
        )
    per_token = advantages.shape[0] != cu_seqlens.shape[0] - 1
    batch = LossBatch(cu_seqlens, advantages, per_token, loss_mask, *optional, config, denominator)
    _check(op, tokens, batch)
    return batch


def unpack_batch(
    op: str,
    num_tokens: int,
    tensors: tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None],
    per_token: bool,
    config: str,
    denominator: float,
) -> LossBatch:
    """Return the batch of an operator's arguments: LossBatch.tensors, and the rest as numbers and text.

    Raises: ValueError: cu_seqlens does not run from 0 to num_tokens (checked only on a CPU).
    """
    cu_seqlens, advantages, loss_mask, *_ = tensors
    check_bounds(op, cu_seqlens, num_tokens)
    decoded = LossConfig.decode(config)
    return LossBatch(cu_seqlens, advantages, per_token, loss_mask, *tensors[3:], decoded, denominator)


def _check(op: str, tokens: Tensor, batch: LossBatch) -> None:
    num_tokens, device = tokens.shape[0], tokens.device
    check_cu_seqlens(op, batch.cu_seqlens, device)
    check_dtype(op, "advantages", batch.advantages, *FLOATS)
    check_device(op, "advantages", batch.advantages, device)
    num_sequences = batch.cu_seqlens.shape[0] - 1
    if tuple(batch.advantages.shape) not in ((num_tokens,), (num_sequences,)):
        expected = f"shape ({num_sequences},), one per sequence, or ({num_tokens},), one per token"
        refuse(op, "advantages", expected, tuple(batch.advantages.shape))
    check_shape(op, "loss_mask", batch.loss_mask, (num_tokens,))
    check_dtype(op, "loss_mask", batch.loss_mask, torch.bool)
    check_device(op, "loss_mask", batch.loss_mask, device)
    check_token_vector(op, "old_logprobs", batch.old_logprobs, tokens)
    check_token_vector(op, "ref_logprobs", batch.ref_logprobs, tokens)
    check_token_vector(op, "rollout_logprobs", batch.rollout_logprobs, tokens)
    if batch.config.kl_coef != 0 and batch.ref_logprobs is None:
        refuse(op, "ref_logprobs", f"a tensor, as kl_coef is {batch.config.kl_coef}", None)
    if not batch.denominator > 0:
        refuse(op, "denominator", "> 0", batch.denominator)
