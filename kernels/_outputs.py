"""What the ops return."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class LogprobOutput:
    """Per-token scores; one entry a row."""

    logprobs: Tensor
    """[T] fp32, nats, differentiable."""
    entropy: Tensor
    """[T] fp32, nats, differentiable."""
    self_certainty: Tensor
    """[T] fp32, nats: KL(uniform || p) >= 0."""
    top1: Tensor
    """[T] bool: no token is likelier than the given one."""


@dataclass(frozen=True, slots=True)
class LossOutput:
    """A policy loss, ready for backward."""

    loss: Tensor
    """0-d: the sum over trained tokens, over the step's denominator."""
    logprobs: Tensor
    """[T] fp32, detached; 0 where computed is false."""
    entropy: Tensor | None
    """[T] fp32, detached; 0 where computed is false; None where it was not given."""
    stats: dict[str, Tensor]
    """0-d float64 tensors on the device. Over micro-batches, *_sum add up, *_min and *_max fold."""
    computed: Tensor
    """[T] bool: tokens that went into the loss and the stats."""
