"""What a competitor is: a function under a name, and why it can't run here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from bench.competitors.loading import version
from fastrl.ops import LossConfig

UNLOADABLE = (ImportError, AttributeError, RuntimeError, OSError)
"""What an import raises where a package is missing, or does not fit the torch or Triton that is there."""
Logprobs = Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor | None]]
"""hidden [T, D], weight [V, D], ids [T], temperature -> log-probs [T], entropy [T] or None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Competitor:
    """`load` imports it and returns Logprobs; with whole_loss, a function of a case to its loss."""

    name: str
    package: str
    load: Callable[[], Callable[..., Any]]
    whole_loss: bool = False
    needs_cuda: bool = False
    compacts: bool = False
    """Masked rows are left out before the call, as the project's own trainer does."""
    compiled: bool = False
    """Its first call at a shape compiles."""
    tf32: bool = False
    in_place: bool = False
    """Its backward writes over its input."""
    same_loss: bool = True
    """False: a reference line that computes something simpler: accuracy gates would say nothing."""

    def reason(self, device: torch.device | str = "cpu") -> str | None:
        """Why it can't run here; None: it can."""
        if self.needs_cuda and torch.device(device).type != "cuda":
            return "needs a CUDA device"
        try:
            self.function()
        except UNLOADABLE as error:
            return f"{type(error).__name__}: {error}"
        return None

    def function(self) -> Callable[..., Any]:
        return loaded(self.load)

    def version(self) -> str:
        return version(self.package)


@dataclass(frozen=True, slots=True)
class LogitsCase:
    """Ready logits: [B, L + 1, V] whose last position predicts nothing, as a causal model leaves them."""

    logits: Tensor
    ids: Tensor
    batch: dict[str, Tensor]
    config: LossConfig
    denominator: float

    def padded(self, values: Tensor) -> Tensor:
        return values.view(self.ids.shape)


@cache
def loaded(load: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
    return load()
