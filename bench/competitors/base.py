"""Competitor: a named function of another library, and the reason if it can't run here."""

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
"""Errors of an import if a package is missing or doesn't fit the installed torch or Triton."""
Logprobs = Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor | None]]
"""hidden [T, D], weight [V, D], ids [T], temperature -> log-probs [T], entropy [T] or None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Competitor:
    """Function of another library; `load` returns Logprobs, or with whole_loss a function of a case."""

    name: str
    package: str
    load: Callable[[], Callable[..., Any]]
    whole_loss: bool = False
    needs_cuda: bool = False
    compacts: bool = False
    """Drop masked rows before the call, as the competitor's own trainer does."""
    compiled: bool = False
    """The first call at a shape compiles."""
    tf32: bool = False
    in_place: bool = False
    """The backward pass overwrites the logits."""
    same_loss: bool = True
    """False: computes something simpler, shown for speed only; accuracy gates do not apply."""

    def reason(self, device: torch.device | str = "cpu") -> str | None:
        """Return why it can't run on `device`, or None."""
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
    """Logits [B, L + 1, V] of a causal model; the last position predicts nothing."""

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
