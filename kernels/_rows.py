"""What is done to logits, a tile of them at a time: the interface that cpp, triton and torch implement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Tile:
    """Raw logits of n rows over the vocabulary's columns [first, first + width), and how they become z.

        z = cap(logit_scale * (raw + bias)) / temperature,  cap(x) = softcap * tanh(x / softcap)

    A token is in a row's support where z >= floor, or where it is the row's own id; p = softmax of z over it.
    """

    logits: Tensor
    """[n, width], rows apart by any stride, elements adjacent."""
    first: int
    ids: Tensor
    """[n] int64, columns of the whole vocabulary; -1: the row is left out, its scores are anything."""
    bias: Tensor | None
    """[V], of the whole vocabulary."""
    temperature: float | Tensor
    """A number, or [n]."""
    logit_scale: float
    softcap: float | None
    floor: Tensor | None
    """[n] fp32; None: every token is in the support."""


@dataclass(frozen=True, slots=True)
class RowScores:
    """Of n rows. The first six run over tiles, in float64; the others are there after the last tile.

    e = exp(z - max); p = e / total. All sums leave out the row's own id.
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
    """fp32: target - max - log(total), log1p(others) in place of the log where target is the maximum."""
    entropy: Tensor
    """fp32: -sum of p log p over the support."""
    self_certainty: Tensor
    """fp32: KL(uniform || softmax of z over the whole vocabulary)."""
    top1: Tensor
    """bool: target >= max."""

    @staticmethod
    def empty(num_rows: int, device: torch.device, dtype: torch.dtype = torch.float32) -> RowScores:
        """dtype: of the final ones; float64 where the logits are."""
        running = torch.empty(6, num_rows, dtype=torch.float64, device=device)
        final = torch.empty(4, num_rows, dtype=dtype, device=device)
        top1 = torch.empty(num_rows, dtype=torch.bool, device=device)
        fields = [*running.unbind(), *final.unbind(), top1]
        return RowScores(*fields)

    def part(self, rows: slice) -> RowScores:
        return RowScores(*(getattr(self, name)[rows] for name in self.__slots__))


class RowMath(Protocol):
    """Everything between the matrix products. exp of less than -64 counts as 0, its argument as -64."""

    def score(self, tile: Tile, scores: RowScores, vocab: int) -> None:
        """Adds a tile to the scores. The tile with first = 0 comes first and overwrites what is there; the
        one that ends at vocab comes last and fills the final fields in."""

    def gradient(
        self, tile: Tile, scores: RowScores, grad_logprobs: Tensor, grad_entropy: Tensor | None, out: Tensor
    ) -> None:
        """out [n, width] = d/d raw of sum over rows of grad_logprobs * logprobs + grad_entropy * entropy.

        out may be tile.logits; its dtype is float32, or the one that the matrix products take. Rows whose
        slopes are both 0 get zeros, whatever their logits; the gradient is 0 outside the support. At the
        row's own id 1 - p is made as -expm1(logprob).
        """

    def floors(self, tile: Tile, top_k: int, top_p: float) -> Tensor:
        """[n] fp32: the support's lower end, from a tile of the whole vocabulary; tile.floor is None.

        The support is the top_k likeliest tokens (0: all), of them the smallest set of mass >= top_p; ties
        with the last one stay in. The end lies in the middle between the smallest z inside and the largest
        outside; -inf where nothing is outside.
        """
