"""Row math: operations on a tile of logits, the interface that cpp, triton and torch implement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Tile:
    """Raw logits of n rows over columns [first, first + width) of the vocabulary, with their scaling to z.

        z = cap(logit_scale * (raw + bias)) / temperature,  cap(x) = softcap * tanh(x / softcap)

    A token is in a row's support if z >= floor or if it is the row's own id; p = softmax of z over the
    support.
    """

    logits: Tensor
    """[n, width], contiguous columns, any row stride."""
    first: int
    ids: Tensor
    """[n] int64, columns of the whole vocabulary; -1: the row is skipped, its scores are undefined."""
    bias: Tensor | None
    """[V], of the whole vocabulary."""
    temperature: float | Tensor
    """A number, or [n]."""
    logit_scale: float
    softcap: float | None
    floor: Tensor | None
    """[n] fp32 lower end of the support; None: every token is in the support."""


@dataclass(frozen=True, slots=True)
class RowScores:
    """Scores of n rows. The first six are running values over tiles, in float64; the others are final values.

    e = exp(z - max); p = e / total. All sums exclude the row's own id.
    """

    max: Tensor
    """Largest z so far, own id included."""
    others: Tensor
    """Sum of e over the support."""
    excluded: Tensor
    """Sum of e outside the support."""
    weighted: Tensor
    """Sum of e * (z - max) over the support."""
    sum_z: Tensor
    """Sum of z over all tokens, own id included."""
    target: Tensor
    """z of the row's own id."""
    total: Tensor
    """fp32: others + exp(target - max)."""
    logprobs: Tensor
    """fp32: target - max - log(total), with log1p(others) for the log if target is the maximum."""
    entropy: Tensor
    """fp32: -sum of p log p over the support."""
    self_certainty: Tensor
    """fp32: KL(uniform || softmax of z over the whole vocabulary)."""
    top1: Tensor
    """bool: target >= max."""

    @staticmethod
    def empty(num_rows: int, device: torch.device, dtype: torch.dtype = torch.float32) -> RowScores:
        """Return uninitialised scores.

        Args:
            dtype: dtype of the final values; float64 for float64 logits.
        """
        running = torch.empty(6, num_rows, dtype=torch.float64, device=device)
        final = torch.empty(4, num_rows, dtype=dtype, device=device)
        top1 = torch.empty(num_rows, dtype=torch.bool, device=device)
        fields = [*running.unbind(), *final.unbind(), top1]
        return RowScores(*fields)

    def part(self, rows: slice) -> RowScores:
        """Return views of some rows."""
        return RowScores(*(getattr(self, name)[rows] for name in self.__slots__))


class RowMath(Protocol):
    """Operations between the matrix products. exp(x) counts as 0 for x < -64, and such an x as -64."""

    def score(self, tile: Tile, scores: RowScores, vocab: int) -> None:
        """Add a tile to the scores.

        Tiles come in order: the one with first = 0 overwrites the scores, and the one that ends at vocab sets
        the final values.
        """

    def gradient(
        self, tile: Tile, scores: RowScores, grad_logprobs: Tensor, grad_entropy: Tensor | None, out: Tensor
    ) -> None:
        """Write to out [n, width] the gradient in the raw logits.

            out = d/d raw of sum over rows of grad_logprobs * logprobs + grad_entropy * entropy

        `out` may be tile.logits; its dtype is float32, or that of the matrix products. Rows whose incoming
        gradients are both 0 get 0, whatever their logits; the gradient is 0 outside the support. At the row's
        own id, 1 - p is computed as -expm1(logprob).
        """

    def floors(self, tile: Tile, top_k: int, top_p: float) -> Tensor:
        """Return the support's lower end, [n] fp32, from a tile of the whole vocabulary with floor None.

        The support is the top_k most likely tokens (0: all), and of them the smallest set of mass >= top_p,
        with ties of the last one. The lower end is midway between the smallest z inside and the largest
        outside; -inf if no token is outside.
        """
