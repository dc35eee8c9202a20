"""The head's matrix products, a chunk of rows at a time: float32 logits in, float32 gradients out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fastrl.kernels._head import Head

LOGITS_IN_MEMORY = 1 << 26
VOCAB_TILE = 8192


def default_chunk_rows(vocab: int) -> int:
    return max(16, LOGITS_IN_MEMORY // vocab)


def chunk_sizes(num_rows: int, chunk_rows: int) -> list[int]:
    """As few chunks as fit, of sizes that differ by one at most; at least one chunk, maybe of no rows."""
    count = max(1, -(-num_rows // chunk_rows))
    return [num_rows // count + (index < num_rows % count) for index in range(count)]


@dataclass(frozen=True, slots=True)
class RowScores:
    """Of n rows. max and sum say where the softmax stands: p[v] = exp(z[v] - max) / sum."""

    logprobs: Tensor
    entropy: Tensor
    self_certainty: Tensor
    top1: Tensor
    max: Tensor
    sum: Tensor


class RowMath(Protocol):
    """What is done to a chunk of logits; the buffer [n, V] is float32 and contiguous."""

    def score(
        self, logits: Tensor, ids: Tensor, head: Head, temperature: float | Tensor, keep_exponentials: bool
    ) -> RowScores:
        """Raw logits become z; with keep_exponentials they may become exp(z - max)."""

    def gradient(
        self,
        logits: Tensor,
        ids: Tensor,
        head: Head,
        temperature: float | Tensor,
        scores: RowScores,
        grad_logprobs: Tensor,
        grad_entropy: Tensor | None,
        exponentials: bool,
    ) -> None:
        """What `score` left becomes, in place, the gradient in the raw logits.

        exponentials: it was told to keep them, and grad_entropy is None.
        """


class HeadProducts:
    """logits = hidden @ weight.T and its transposes: operands of hidden's precision, float32 sums.

    The CPU has no such product for half precision: operands are widened, a tile of the vocabulary at a time.
    """

    def __init__(self, weight: Tensor, dtype: torch.dtype, with_weight_gradient: bool) -> None:
        self._dtype = dtype
        self._operand = torch.float32 if weight.device.type == "cpu" else dtype
        self._narrow = weight.detach()
        self._tile = VOCAB_TILE
        if weight.dtype == self._operand == dtype or weight.device.type != "cpu":
            self._narrow = self._narrow.to(self._operand)
            self._tile = weight.shape[0]
        self.weight_gradient: Tensor | None = None
        self._with_weight_gradient = with_weight_gradient

    def operand(self, rows: Tensor) -> Tensor:
        return rows.to(self._operand)

    def logits(self, rows: Tensor, out: Tensor) -> None:
        for columns, weight in self._tiles():
            _product(rows, weight.T, out[:, columns], add=False)

    def gradients(self, rows: Tensor, grad_logits: Tensor, with_hidden: bool) -> Tensor | None:
        """Adds to weight_gradient; returns the gradient in rows, float32."""
        grad_logits = grad_logits.to(self._operand)
        first = self.weight_gradient is None
        if self._with_weight_gradient and first:
            self.weight_gradient = torch.empty(
                self._narrow.shape, dtype=torch.float32, device=self._narrow.device
            )
        if self.weight_gradient is not None:
            _product(grad_logits.T, rows, self.weight_gradient, add=not first)
        if not with_hidden:
            return None
        grad_rows = torch.empty(rows.shape, dtype=torch.float32, device=rows.device)
        for columns, weight in self._tiles():
            _product(grad_logits[:, columns], weight, grad_rows, add=columns.start > 0)
        return grad_rows

    def _tiles(self) -> Iterator[tuple[slice, Tensor]]:
        vocab = self._narrow.shape[0]
        for begin in range(0, vocab, self._tile):
            columns = slice(begin, min(begin + self._tile, vocab))
            yield columns, self._narrow[columns].to(self._dtype).to(self._operand)


def _product(a: Tensor, b: Tensor, out: Tensor, add: bool) -> None:
    """out = a @ b, or out += a @ b, in float32."""
    if a.dtype == torch.float32:
        out.addmm_(a, b, beta=int(add))
    else:
        torch.addmm(out, a, b, beta=int(add), out_dtype=torch.float32, out=out)
