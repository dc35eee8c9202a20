"""Outputs of the ops."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class LogprobOutput:
    """Scores of T tokens."""

    logprobs: Tensor
    """[T] fp32, nats, differentiable."""
    entropy: Tensor
    """[T] fp32, nats, differentiable."""
    self_certainty: Tensor
    """[T] fp32, nats: KL(uniform || p) >= 0."""
    top1: Tensor
    """[T] bool: the token is the most likely one."""


@dataclass(frozen=True, slots=True)
class LossOutput:
    """A policy loss and its statistics."""

    loss: Tensor
    """0-d: sum over loss tokens divided by the step's denominator."""
    logprobs: Tensor
    """[T] fp32, detached; 0 at tokens that are not computed."""
    entropy: Tensor | None
    """[T] fp32, detached; 0 at tokens that are not computed; None if it was not given."""
    stats: dict[str, Tensor]
    """0-d float64 tensors on the device. Over micro-batches sum *_sum, and take the extreme of *_min and
    *_max."""
    computed: Tensor
    """[T] bool: tokens that the loss and the statistics include."""
