"""Attention of a dense piece with its log-sum-exps, and the piece's share of the gradients.

The softmax of a row covers several pieces. Given the row's total log-sum-exp and delta = sum of grad * out,
the gradient of each piece is independent of the others. A row with log-sum-exp +inf gets no gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray
BLOCK = 256  # rows whose scores are in memory at once
INFINITY = float("inf")
Gradients = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class View:
    """Visibility of keys: a row sees keys with depth <= its own, and within the window."""

    rows: Array
    """Depths of the rows."""
    keys: Array
    """Depths of the keys, rising; the same object as `rows` for causal attention."""
    window: int | None

    @property
    def is_windowed(self) -> bool:
        return self.window is not None and bool(self.rows.max() - self.keys[0] >= self.window)

    @property
    def is_causal(self) -> bool:
        return self.rows is self.keys

    def blocks(self) -> Iterator[tuple[slice, slice, Array | None]]:
        """Yield (rows, keys that some of them see, mask [rows, keys] or None if all see all)."""
        for begin in range(0, len(self.rows), BLOCK):
            rows = self.rows[begin : begin + BLOCK]
            first = 0
            if self.window is not None:
                first = int(np.searchsorted(self.keys, rows.min() - self.window, side="right"))
            last = int(np.searchsorted(self.keys, rows.max(), side="right"))
            behind = rows[:, None] - self.keys[first:last]
            sees = behind >= 0
            if self.window is not None:
                sees &= behind < self.window
            yield slice(begin, begin + len(rows)), slice(first, last), None if sees.all() else sees


@dataclass(frozen=True, slots=True)
class Dense:
    """softmax(cap(scaling * q k^T)) v. Tensors are [S, tokens, heads, K], log-sum-exps [S, tokens, heads]."""

    scaling: float
    softcap: float | None

    def forward(self, q: Tensor, k: Tensor, v: Tensor, view: View) -> tuple[Tensor, Tensor]:
        """Return (out, log-sum-exps) of a piece."""
        if self._by_torch(q, v, view):
            out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                *_heads_first(q, k, v), 0.0, view.is_causal, scale=self.scaling
            )
            return out.transpose(1, 2), lse.transpose(1, 2)
        wide = torch.promote_types(q.dtype, torch.float32)
        out = torch.empty((*q.shape[:3], v.shape[3]), dtype=wide, device=q.device)
        lse = torch.empty(q.shape[:3], dtype=wide, device=q.device)
        for rows, keys, sees in view.blocks():
            scores, _ = self._scores(q[:, rows], k[:, keys], sees)
            sums = scores.logsumexp(-1, keepdim=True)
            mixed = torch.exp(scores - sums) @ _by_key_head(v[:, keys], v.shape[2])
            out[:, rows] = _by_row(mixed, q.shape[2])
            lse[:, rows] = _by_row(sums, q.shape[2]).squeeze(-1)
        return out, lse

    def backward(
        self, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, view: View
    ) -> Gradients:
        """Return the gradients of q, k and v, given out and lse over all pieces."""
        if self._by_torch(q, v, view):
            found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                *_heads_first(grad, q, k, v, out),
                lse.transpose(1, 2),
                0.0,
                view.is_causal,
                scale=self.scaling,
            )
            dq, dk, dv = (gradient.transpose(1, 2) for gradient in found)
            return dq, dk, dv
        delta = (grad.to(lse.dtype) * out.to(lse.dtype)).sum(-1, keepdim=True)
        dq = torch.empty(q.shape, dtype=lse.dtype, device=q.device)
        dk, dv = (torch.zeros(x.shape, dtype=lse.dtype, device=q.device) for x in (k, v))
        num_kv_heads = k.shape[2]
        for rows, keys, sees in view.blocks():
            scores, cap_grad = self._scores(q[:, rows], k[:, keys], sees)
            row_grad = _by_key_head(grad[:, rows], num_kv_heads)
            p = torch.exp(scores - _by_key_head(lse[:, rows, :, None], num_kv_heads))
            from_values = row_grad @ _by_key_head(v[:, keys], num_kv_heads).transpose(-1, -2)
            ds = p * (from_values - _by_key_head(delta[:, rows], num_kv_heads)) * self.scaling
            if cap_grad is not None:
                ds *= cap_grad
            dq[:, rows] = _by_row(ds @ _by_key_head(k[:, keys], num_kv_heads), q.shape[2])
            dk[:, keys] += (ds.transpose(-1, -2) @ _by_key_head(q[:, rows], num_kv_heads)).transpose(1, 2)
            dv[:, keys] += (p.transpose(-1, -2) @ row_grad).transpose(1, 2)
        return dq, dk, dv

    def _by_torch(self, q: Tensor, v: Tensor, view: View) -> bool:
        """Return True if PyTorch's CPU kernel can be used, which supports neither soft-caps nor windows."""
        plain = self.softcap is None and not view.is_windowed and q.shape[3] == v.shape[3]
        return plain and q.device.type == "cpu"

    def _scores(self, q: Tensor, k: Tensor, sees: Array | None) -> tuple[Tensor, Tensor | None]:
        """Return (scores [S, Hkv, rows * group, keys], -inf at masked keys; derivative of the soft-cap)."""
        num_kv_heads = k.shape[2]
        scores = (
            _by_key_head(q, num_kv_heads) @ _by_key_head(k, num_kv_heads).transpose(-1, -2) * self.scaling
        )
        cap_grad = None
        if self.softcap is not None:
            scores = torch.tanh(scores / self.softcap)
            cap_grad = 1 - scores * scores
            scores = scores * self.softcap
        if sees is not None:
            hidden = torch.from_numpy(~sees).to(q.device).repeat_interleave(q.shape[2] // num_kv_heads, dim=0)
            scores = scores.masked_fill(hidden, -INFINITY)
        return scores, cap_grad


def _heads_first(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.transpose(1, 2) for tensor in tensors)


def _by_key_head(x: Tensor, num_kv_heads: int) -> Tensor:
    """Reshape [S, tokens, heads, K] -> [S, Hkv, tokens * heads / Hkv, K], at least in float32."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return wide.view(*x.shape[:2], num_kv_heads, -1, x.shape[3]).transpose(1, 2).flatten(2, 3)


def _by_row(x: Tensor, num_heads: int) -> Tensor:
    """Reshape [S, Hkv, tokens * heads / Hkv, K] -> [S, tokens, heads, K]."""
    grouped = x.view(*x.shape[:2], -1, num_heads // x.shape[1], x.shape[3])
    return grouped.transpose(1, 2).flatten(2, 3)
