"""The head's matrix products over a tile of the vocabulary, with float32 results."""

from __future__ import annotations

import torch
from torch import Tensor


class HeadProducts:
    """logits = rows @ weight.T and its gradients, with operands in hidden's dtype and float32 accumulation.

    A weight of another dtype is cast once. A CPU has no such product for half precision, so there operands
    are cast to float32, a tile at a time.
    """

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self.accurate = torch.promote_types(dtype, torch.float32)
        self._operand = self.accurate if weight.device.type == "cpu" else dtype
        self._weight: Tensor | None = weight if weight.dtype == self._operand == dtype else None
        self._given = weight

    @property
    def gradient_dtype(self) -> torch.dtype:
        """Dtype of d loss / d logits, which the products take without a cast."""
        return self._operand

    def operand(self, rows: Tensor) -> Tensor:
        return rows.to(self._operand)

    def logits(self, rows: Tensor, columns: slice, out: Tensor) -> None:
        _product(rows, self._tile(columns).T, out, add=False)

    def grad_rows(self, grad_logits: Tensor, columns: slice | Tensor, out: Tensor, add: bool) -> None:
        _product(grad_logits, self._tile(columns), out, add)

    def grad_weight(self, grad_logits: Tensor, rows: Tensor, out: Tensor, add: bool) -> None:
        """Write or add grad_logits.T @ rows to the tile's rows of the weight's gradient.

        Args:
            out: float32 (float64) if add; any dtype otherwise.
        """
        if out.dtype == self.accurate:
            _product(grad_logits.T, rows, out, add)
        else:
            out.copy_(_product_of(grad_logits.T, rows))

    def _tile(self, columns: slice | Tensor) -> Tensor:
        if self._weight is None and self._given.device.type != "cpu":
            # once, since every piece reads every tile; a CPU's tile stays in the cache
            self._weight = self._given.to(self._dtype)
        if self._weight is not None:
            return self._weight[columns]
        return self._given[columns].to(self._dtype).to(self._operand)


def _product(a: Tensor, b: Tensor, out: Tensor, add: bool) -> None:
    """out = a @ b, or out += a @ b."""
    if a.dtype == out.dtype:
        out.addmm_(a, b, beta=int(add))
    elif add:
        torch.addmm(out, a, b, out_dtype=out.dtype, out=out)
    else:
        torch.mm(a, b, out_dtype=out.dtype, out=out)


def _product_of(a: Tensor, b: Tensor) -> Tensor:
    return a @ b if a.dtype in (torch.float32, torch.float64) else torch.mm(a, b, out_dtype=torch.float32)
