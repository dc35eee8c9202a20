"""A packed batch as the loss sees it, and sums over its sequences."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastrl.kernels._checks import (
    FLOATS,
    check_cu_seqlens,
    check_device,
    check_dtype,
    check_shape,
    check_token_vector,
    refuse,
)
from fastrl.kernels.config import LossConfig


@dataclass(frozen=True, slots=True)
class LossBatch:
    """T packed tokens of S sequences: everything the loss reads beside the log-probs."""

    cu_seqlens: Tensor
    advantages: Tensor
    loss_mask: Tensor
    computed: Tensor
    """[T] bool, a subset of loss_mask: tokens that go into the loss and the stats."""
    old_logprobs: Tensor | None
    ref_logprobs: Tensor | None
    rollout_logprobs: Tensor | None
    config: LossConfig
    denominator: float

    @property
    def num_sequences(self) -> int:
        return self.cu_seqlens.shape[0] - 1

    @property
    def whole_sequences(self) -> bool:
        """A token's gradient needs the log-probs of its whole sequence."""
        config = self.config
        ratio = config.loss_type == "gspo" and self.old_logprobs is not None
        return ratio or (config.corrects_sequences and self.rollout_logprobs is not None)


def sequence_of_tokens(cu_seqlens: Tensor, num_tokens: int) -> Tensor:
    """[T] int64: the sequence that each token belongs to."""
    index = torch.arange(cu_seqlens.shape[0] - 1, device=cu_seqlens.device)
    return torch.repeat_interleave(index, cu_seqlens.diff(), output_size=num_tokens)


def sequence_sum(values: Tensor, sequence: Tensor, batch: LossBatch) -> Tensor:
    """[S]: sums of per-token values."""
    return values.new_zeros(batch.num_sequences).index_add(0, sequence, values)


def token_advantages(batch: LossBatch, sequence: Tensor) -> Tensor:
    """[T] from [S] or [T]; a length that fits both is a value a sequence."""
    per_sequence = batch.advantages.shape[0] == batch.num_sequences
    return batch.advantages[sequence] if per_sequence else batch.advantages


def check_batch(op: str, tokens: Tensor, batch: LossBatch) -> None:
    """`tokens` is any tensor whose first dimension is T."""
    num_tokens, device = tokens.shape[0], tokens.device
    check_cu_seqlens(op, batch.cu_seqlens, num_tokens, device)
    check_dtype(op, "advantages", batch.advantages, *FLOATS)
    check_device(op, "advantages", batch.advantages, device)
    if tuple(batch.advantages.shape) not in ((num_tokens,), (batch.num_sequences,)):
        expected = f"shape ({batch.num_sequences},) a sequence or ({num_tokens},) a token"
        refuse(op, "advantages", expected, tuple(batch.advantages.shape))
    check_shape(op, "loss_mask", batch.loss_mask, (num_tokens,))
    check_dtype(op, "loss_mask", batch.loss_mask, torch.bool)
    check_device(op, "loss_mask", batch.loss_mask, device)
    for name in ("old_logprobs", "ref_logprobs", "rollout_logprobs"):
        check_token_vector(op, name, getattr(batch, name), tokens)
    if batch.config.kl_coef != 0 and batch.ref_logprobs is None:
        refuse(op, "ref_logprobs", f"a tensor, as kl_coef is {batch.config.kl_coef}", None)
    if not batch.denominator > 0:
        refuse(op, "denominator", "> 0", batch.denominator)
