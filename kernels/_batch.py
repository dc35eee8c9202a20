"""A packed batch as the losses see it."""

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
    """T packed tokens of S sequences: everything the loss reads except the scores."""

    cu_seqlens: Tensor
    """[S + 1] int32."""
    advantages: Tensor
    """[S], or [T] where advantages_per_token; any float dtype."""
    advantages_per_token: bool
    loss_mask: Tensor
    """[T] bool."""
    old_logprobs: Tensor | None
    """[T], any float dtype, as the next two."""
    ref_logprobs: Tensor | None
    rollout_logprobs: Tensor | None
    config: LossConfig
    denominator: float

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """Return the tensors in the order in which the operators take them."""
        others = (self.old_logprobs, self.ref_logprobs, self.rollout_logprobs)
        return (self.cu_seqlens, self.advantages, self.loss_mask, *others)

    @property
    def needs_whole_sequences(self) -> bool:
        """A token's gradient needs the log-probs of its whole sequence."""
        ratio = self.config.loss_type == "gspo" and self.old_logprobs is not None
        return ratio or (self.config.corrects_sequences and self.rollout_logprobs is not None)

    @property
    def idle_tokens_leave(self) -> bool:
        """A token of advantage 0 has no gradient."""
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
    """Checked against `tokens`, whose first dimension is T. optional: old, ref and rollout log-probs."""
    if isinstance(advantages, GroupRewards):
        of = advantages
        advantages = group_advantage(
            of.rewards, of.group_ids, scale=of.scale, baseline=of.baseline, eps=of.eps
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
    """Make the batch of what an operator was given: LossBatch.tensors, and the rest as numbers and text.

    Raises: ValueError: cu_seqlens are not the bounds of num_tokens tokens (read on a CPU only).
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
        expected = f"shape ({num_sequences},), one a sequence, or ({num_tokens},), one a token"
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
