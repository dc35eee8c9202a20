"""Passes of chunks of rows through the LM head: logits, scores and gradients. Only this file holds logits."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fastrl.kernels._head import Head
from fastrl.kernels._layout import Layout
from fastrl.kernels._products import HeadProducts
from fastrl.kernels._rows import RowMath, RowScores, Tile


@dataclass(frozen=True, slots=True)
class Chunk:
    """m gathered rows of the batch."""

    rows: Tensor
    """[m] int64 in [0, T]; T is padding, whose results are not used."""
    operand: Tensor
    """[m, D] hidden states in the dtype of the matrix products."""
    ids: Tensor
    temperature: float | Tensor

    def part(self, part: slice) -> Chunk:
        """Return some of the rows."""
        temperature = self.temperature[part] if isinstance(self.temperature, Tensor) else self.temperature
        return Chunk(self.rows[part], self.operand[part], self.ids[part], temperature)


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores of a chunk."""

    scores: RowScores
    floor: Tensor | None
    """[m] fp32 lower end of the support; None: every token."""

    def part(self, part: slice) -> Scored:
        return Scored(self.scores.part(part), None if self.floor is None else self.floor[part])


class HeadPass:
    """Buffers for a chunk's logits, and for their gradients if these can't overwrite the logits."""

    def __init__(
        self, hidden: Tensor, ids: Tensor, head: Head, math: RowMath, layout: Layout, most_rows: int
    ) -> None:
        """Allocate buffers for chunks of at most most_rows rows."""
        self._hidden, self._ids, self._head, self._math = hidden, ids, head, math
        self.layout = dataclasses.replace(layout, columns=head.vocab) if head.has_support else layout
        self.products = HeadProducts(head.weight, hidden.dtype)
        self._rows = most_rows
        columns = head.vocab if self.layout.keep else self.layout.columns
        self._logits = self._buffer(min(most_rows, layout.piece) * columns, self.products.accurate)
        self._gradients = self._logits
        if self.products.gradient_dtype != self._logits.dtype or layout.piece < most_rows:
            self._gradients = self._buffer(0, self.products.gradient_dtype)
        self._columns = columns

    def take(self, rows: Tensor) -> Chunk:
        """Gather the rows of a chunk."""
        last = max(0, self._hidden.shape[0] - 1)
        inside = rows.clamp(max=last)
        temperature = self._head.temperature
        return Chunk(
            rows,
            self.products.operand(self._hidden.index_select(0, inside)),
            self._ids.index_select(0, inside),
            temperature.index_select(0, inside) if isinstance(temperature, Tensor) else temperature,
        )

    def score(self, chunk: Chunk) -> Scored:
        """Score a chunk or a piece; its logits stay in the buffer if the layout keeps them."""
        scores = RowScores.empty(len(chunk.rows), self._hidden.device, self.products.accurate)
        floor = None
        for columns in self.tiles():
            logits = self._view(self._logits, len(chunk.rows), columns)
            self.products.logits(chunk.operand, columns, logits)
            tile = self._tile(chunk, columns, logits, None)
            if self._head.has_support:
                floor = self._math.floors(tile, self._head.top_k, self._head.top_p)
                tile = dataclasses.replace(tile, floor=floor)
            self._math.score(tile, scores, self._head.vocab)
        return Scored(scores, floor)

    def kept_gradient(
        self, chunk: Chunk, part: slice, scored: Scored, grad_logprobs: Tensor, grad_entropy: Tensor | None
    ) -> None:
        """Turn the kept logits of the last scored piece, `part` of the chunk, into gradients."""
        self._reserve_gradients()
        piece = chunk.part(part)
        for columns in self.tiles():
            logits = self._view(self._logits, len(piece.rows), columns)
            out = self._view(self._gradients, len(chunk.rows), columns)[part]
            tile = self._tile(piece, columns, logits, scored.floor)
            self._math.gradient(tile, scored.scores, grad_logprobs, grad_entropy, out)

    def kept_gradients(self, chunk: Chunk) -> Iterator[tuple[slice, Tensor]]:
        """Yield (columns, d loss / d raw logits) from kept_gradient, tile by tile."""
        for columns in self.tiles():
            yield columns, self._view(self._gradients, len(chunk.rows), columns)

    def gradients_again(
        self, chunk: Chunk, scored: Scored, grad_logprobs: Tensor, grad_entropy: Tensor | None
    ) -> Iterator[tuple[slice, Tensor]]:
        """Recompute the logits and yield (columns, d loss / d raw logits), tile by tile."""
        self._reserve_gradients()
        for columns in self.tiles():
            logits = self._view(self._logits, len(chunk.rows), columns)
            self.products.logits(chunk.operand, columns, logits)
            out = self._view(self._gradients, len(chunk.rows), columns)
            tile = self._tile(chunk, columns, logits, scored.floor)
            self._math.gradient(tile, scored.scores, grad_logprobs, grad_entropy, out)
            yield columns, out

    def tiles(self) -> Iterator[slice]:
        """Yield the columns of each tile."""
        vocab, width = self._head.vocab, self.layout.columns
        for begin in range(0, vocab, width):
            yield slice(begin, min(begin + width, vocab))

    def _tile(self, chunk: Chunk, columns: slice, logits: Tensor, floor: Tensor | None) -> Tile:
        head = self._head
        return Tile(
            logits,
            columns.start,
            chunk.ids,
            head.bias,
            chunk.temperature,
            head.logit_scale,
            head.softcap,
            floor,
        )

    def _view(self, buffer: Tensor, num_rows: int, columns: slice) -> Tensor:
        width = columns.stop - columns.start
        begin = num_rows * columns.start if self.layout.keep else 0
        return buffer[begin : begin + num_rows * width].view(num_rows, width)

    def _reserve_gradients(self) -> None:
        if self._gradients.numel() == 0:
            self._gradients = self._buffer(self._rows * self._columns, self.products.gradient_dtype)

    def _buffer(self, size: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(size, dtype=dtype, device=self._hidden.device)
