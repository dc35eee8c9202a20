"""A packed batch as the losses see it: checked, with everything that is per sequence brought to tokens."""

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
    """T packed tokens of S sequences: everything the loss reads beside the log-probs. Tensors are [T]."""

    cu_seqlens: Tensor
    """[S + 1] int32."""
    advantages: Tensor
    weights: Tensor
    """Token weight / denominator; 0 where not computed."""
    computed: Tensor
    """bool: tokens that go into the loss and the stats."""
    old_logprobs: Tensor | None
    ref_logprobs: Tensor | None
    rollout_logprobs: Tensor | None
    config: LossConfig

    @property
    def sequence(self) -> Tensor:
        """[T] int64: the sequence that each token belongs to."""
        return sequence_of_tokens(self.cu_seqlens, self.weights.shape[0])

    def sequence_sum(self, values: Tensor, sequence: Tensor) -> Tensor:
        """[T]: for each token, the sum of `values` over its sequence."""
        return sequence_sum(values, sequence, self.cu_seqlens.shape[0] - 1)[sequence]

    def part(self, begin: int, end: int) -> LossBatch:
        """Tokens begin to end; sequences outside are empty, those that reach across are cut."""

        def cut(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[begin:end]

        return LossBatch(
            cu_seqlens=(self.cu_seqlens - begin).clamp(0, end - begin),
            advantages=self.advantages[begin:end],
            weights=self.weights[begin:end],
            computed=self.computed[begin:end],
            old_logprobs=cut(self.old_logprobs),
            ref_logprobs=cut(self.ref_logprobs),
            rollout_logprobs=cut(self.rollout_logprobs),
            config=self.config,
        )


def sequence_of_tokens(cu_seqlens: Tensor, num_tokens: int) -> Tensor:
    index = torch.arange(cu_seqlens.shape[0] - 1, device=cu_seqlens.device)
    return torch.repeat_interleave(index, cu_seqlens.diff(), output_size=num_tokens)


def sequence_sum(values: Tensor, sequence: Tensor, num_sequences: int) -> Tensor:
    return values.new_zeros(num_sequences).index_add(0, sequence, values)


def prepare_batch(
    op: str,
    tokens: Tensor,
    cu_seqlens: Tensor,
    advantages: Tensor,
    loss_mask: Tensor,
    others: tuple[Tensor | None, Tensor | None, Tensor | None],
    config: LossConfig,
    denominator: float,
    leave_out: bool,
) -> LossBatch:
    """Check everything against `tokens`, any tensor whose first dimension is T.

    others: old, ref and rollout log-probs. leave_out: tokens that can't carry a gradient are not computed.
    """
    _check(op, tokens, cu_seqlens, advantages, loss_mask, denominator)
    for name, values in zip(("old_logprobs", "ref_logprobs", "rollout_logprobs"), others, strict=True):
        check_token_vector(op, name, values, tokens)
    old_logprobs, ref_logprobs, rollout_logprobs = others
    if config.kl_coef != 0 and ref_logprobs is None:
        refuse(op, "ref_logprobs", f"a tensor, as kl_coef is {config.kl_coef}", None)
    sequence = sequence_of_tokens(cu_seqlens, tokens.shape[0])
    num_sequences = cu_seqlens.shape[0] - 1
    if advantages.shape[0] == num_sequences:
        advantages = advantages[sequence]
    accurate = torch.promote_types(tokens.dtype, torch.float32)
    weights = torch.full(loss_mask.shape, 1 / denominator, dtype=accurate, device=tokens.device)
    if config.averages_sequences:
        lengths = sequence_sum(loss_mask.to(accurate), sequence, num_sequences)
        weights = weights / lengths.clamp(min=1)[sequence]
    computed = loss_mask
    if leave_out and config.kl_coef == 0 and config.entropy_coef == 0:
        computed = loss_mask & (advantages != 0)
        if needs_whole_sequences(config, old_logprobs, rollout_logprobs):
            kept = sequence_sum(computed.to(torch.int64), sequence, num_sequences) > 0
            computed = loss_mask & kept[sequence]
    weights = weights.masked_fill(~computed, 0)
    return LossBatch(
        cu_seqlens, advantages, weights, computed, old_logprobs, ref_logprobs, rollout_logprobs, config
    )


def needs_whole_sequences(
    config: LossConfig, old_logprobs: Tensor | None, rollout_logprobs: Tensor | None
) -> bool:
    """A token's gradient needs the log-probs of its whole sequence."""
    ratio = config.loss_type == "gspo" and old_logprobs is not None
    return ratio or (config.corrects_sequences and rollout_logprobs is not None)


def _check(
    op: str, tokens: Tensor, cu_seqlens: Tensor, advantages: Tensor, loss_mask: Tensor, denominator: float
) -> None:
    num_tokens, device = tokens.shape[0], tokens.device
    check_cu_seqlens(op, cu_seqlens, num_tokens, device)
    num_sequences = cu_seqlens.shape[0] - 1
    check_dtype(op, "advantages", advantages, *FLOATS)
    check_device(op, "advantages", advantages, device)
    if tuple(advantages.shape) not in ((num_tokens,), (num_sequences,)):
        expected = f"shape ({num_sequences},), one a sequence, or ({num_tokens},), one a token"
        refuse(op, "advantages", expected, tuple(advantages.shape))
    check_shape(op, "loss_mask", loss_mask, (num_tokens,))
    check_dtype(op, "loss_mask", loss_mask, torch.bool)
    check_device(op, "loss_mask", loss_mask, device)
    if not denominator > 0:
        refuse(op, "denominator", "> 0", denominator)
