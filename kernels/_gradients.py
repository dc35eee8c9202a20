"""Accumulation of the gradients in hidden, weight and bias over chunks of rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from fastrl.kernels._head import Head
from fastrl.kernels._passes import Chunk
from fastrl.kernels._products import HeadProducts

Needed = tuple[bool, bool, bool]
"""True for each of hidden, weight and bias that needs a gradient."""


class Gradients:
    """Gradients of the loss, 0 until the first chunk is added.

    Args:
        one_chunk: only one chunk will come, so the weight's gradient needs no float32 accumulator.
    """

    def __init__(self, hidden: Tensor, head: Head, products: HeadProducts, needed: Needed, one_chunk: bool):
        self._head, self._products, self._tokens = head, products, hidden.shape[0]
        accurate, device = products.accurate, hidden.device
        with_hidden, with_weight, with_bias = needed
        self._hidden = self._weight = self._bias = None
        if with_hidden:  # one extra row for padding
            size = (hidden.shape[0] + 1, hidden.shape[1])
            self._hidden = torch.zeros(size, dtype=hidden.dtype, device=device)
        if with_weight:
            dtype = head.weight.dtype if one_chunk else accurate
            self._weight = torch.empty(head.weight.shape, dtype=dtype, device=device)
        if with_bias and head.bias is not None:
            self._bias = torch.zeros(head.vocab, dtype=accurate, device=device)
        self._started = False
        self._norms: Tensor | None = None

    @property
    def needed(self) -> bool:
        return any(gradient is not None for gradient in (self._hidden, self._weight, self._bias))

    def add(self, chunk: Chunk, tiles: Iterable[tuple[slice, Tensor]]) -> None:
        """Add a chunk.

        Args:
            tiles: (columns, d loss / d raw logits) over all columns of the vocabulary in order.
        """
        if len(chunk.rows) == 0:
            return
        grad_rows = None
        if self._hidden is not None:
            grad_rows = torch.empty(
                chunk.operand.shape, dtype=self._products.accurate, device=chunk.rows.device
            )
        for columns, grad_logits in tiles:
            if self._bias is not None:
                self._bias[columns] += grad_logits.sum(0, dtype=self._bias.dtype)
            if grad_rows is not None:
                self._products.grad_rows(grad_logits, columns, grad_rows, add=columns.start > 0)
            if self._weight is not None:
                self._products.grad_weight(
                    grad_logits, chunk.operand, self._weight[columns], add=self._started
                )
        self._started = True
        self._store(chunk, grad_rows)

    def add_columns(
        self, chunk: Chunk, columns: Tensor, likely: Tensor, tiles: Sequence[tuple[slice, Tensor]]
    ) -> None:
        """Add a chunk's bias gradient, and for hidden and weight only the contribution of some columns.

        Args:
            columns: [k] columns of the vocabulary to add.
            likely: [m, k] d loss / d raw logits at these columns.
        """
        if self._bias is not None:
            for tile_columns, grad_logits in tiles:
                self._bias[tile_columns] += grad_logits.sum(0, dtype=self._bias.dtype)
        if self._weight is not None:
            if not self._started:
                self._weight.zero_()
            change = torch.empty(
                len(columns), chunk.operand.shape[1], dtype=self._weight.dtype, device=columns.device
            )
            self._products.grad_weight(likely, chunk.operand, change, add=False)
            self._weight.index_add_(0, columns, change)
        grad_rows = None
        if self._hidden is not None:
            grad_rows = torch.empty(chunk.operand.shape, dtype=self._products.accurate, device=columns.device)
            self._products.grad_rows(likely, columns, grad_rows, add=False)
        self._started = True
        self._store(chunk, grad_rows)

    def weight_norms(self) -> Tensor:
        """Return the norm of each row of the weight, [V] fp32."""
        if self._norms is None:
            self._norms = torch.linalg.vector_norm(self._head.weight, dim=1, dtype=torch.float32)
        return self._norms

    def _store(self, chunk: Chunk, grad_rows: Tensor | None) -> None:
        if self._hidden is not None and grad_rows is not None:
            self._hidden.index_copy_(0, chunk.rows, grad_rows.to(self._hidden.dtype))

    def finish(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the gradients in their inputs' dtypes; None for those not needed."""
        if self._weight is not None and not self._started:
            self._weight.zero_()
        hidden = None if self._hidden is None else self._hidden[: self._tokens]
        weight = None if self._weight is None else self._weight.to(self._head.weight.dtype)
        bias = None if self._bias is None or self._head.bias is None else self._bias.to(self._head.bias.dtype)
        return hidden, weight, bias
