"""prefix_attention in PyTorch, piece by piece; on a CPU with PyTorch's attention kernel."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fastrl.kernels.prefix_attention.dense import INFINITY, Dense, View
from fastrl.kernels.prefix_attention.pieces import Pieces, Squares, Trunk, pieces_of


def forward(
    query: Tensor, key: Tensor, value: Tensor, segments: Tensor, dense: Dense, window: int | None
) -> tuple[Tensor, Tensor]:
    """Return (out [M, Hq, Kv], log-sum-exps [M, Hq] at least in float32)."""
    pieces = pieces_of(segments, query.device)
    query, key, value = (_inner_contiguous(x) for x in (query, key, value))
    parts = []
    for squares in pieces.squares:
        q, k, v = (squares.take(x) for x in (query, key, value))
        parts.append(dense.forward(q, k, v, _along(squares, window)))
    out, lse = (_assemble(columns, pieces) for columns in zip(*parts, strict=True))
    if pieces.trunks:
        out = out.to(lse.dtype)  # merged in full precision
    for trunk in pieces.trunks:
        rows, view = _below(trunk, window)
        if len(view.rows):
            more, more_lse = dense.forward(
                query[rows][None], key[trunk.keys][None], value[trunk.keys][None], view
            )
            _join(out, lse, rows, more[0], more_lse[0])
    return out.to(value.dtype).contiguous(), lse.contiguous()


def backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor,
    segments: Tensor, dense: Dense, window: int | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return the gradients of query, key and value."""
    pieces = pieces_of(segments, query.device)
    grad, query, key, value = (_inner_contiguous(x) for x in (grad, query, key, value))
    parts = []
    for squares in pieces.squares:
        g, q, k, v, o = (squares.take(x) for x in (grad, query, key, value, out))
        sums = squares.take(lse)
        if squares.dropped is not None:
            sums = sums.masked_fill(squares.dropped.view(*squares.shape, 1), INFINITY)
        parts.append(dense.backward(g, q, k, v, o, sums, _along(squares, window)))
    dq, dk, dv = (_assemble(columns, pieces) for columns in zip(*parts, strict=True))
    if pieces.trunks or any(squares.above is not None for squares in pieces.squares):
        dq, dk, dv = (x.to(lse.dtype) for x in (dq, dk, dv))
    for squares, (_, more_dk, more_dv) in zip(pieces.squares, parts, strict=True):
        if squares.above is not None and squares.above_slots is not None:
            for total, more in ((dk, more_dk), (dv, more_dv)):
                added = more.flatten(0, 1).index_select(0, squares.above).to(total.dtype)
                total.index_add_(0, squares.above_slots, added)
    for trunk in pieces.trunks:
        rows, view = _below(trunk, window)
        if len(view.rows):
            below = (grad[rows], query[rows], key[trunk.keys], value[trunk.keys], out[rows], lse[rows])
            g, q, k, v, o, sums = (x[None] for x in below)
            found = dense.backward(g, q, k, v, o, sums, view)
            for total, slots, more in zip((dq, dk, dv), (rows, trunk.keys, trunk.keys), found, strict=True):
                total[slots] += more[0]  # slots are distinct
    return dq.to(query.dtype), dk.to(key.dtype), dv.to(value.dtype)


def _inner_contiguous(x: Tensor) -> Tensor:
    """Return x with a contiguous last dimension, as PyTorch's kernel requires."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _along(squares: Squares, window: int | None) -> View:
    depths = np.arange(squares.shape[1])
    return View(depths, depths, window)


def _below(trunk: Trunk, window: int | None) -> tuple[slice | Tensor, View]:
    rows, depths = trunk.rows(window)
    return rows, View(depths, trunk.key_depths, window)


def _assemble(parts: tuple[Tensor, ...], pieces: Pieces) -> Tensor:
    """Reorder the results [S, L, ...] of all squares to [M, ...]."""
    flat = [part.flatten(0, 1) for part in parts]
    joined = flat[0] if len(flat) == 1 else torch.cat(flat)
    return joined if pieces.order is None else joined.index_select(0, pieces.order)


def _join(out: Tensor, lse: Tensor, rows: slice | Tensor, more: Tensor, more_lse: Tensor) -> None:
    """Merge a further part of the softmax into out and lse, in place."""
    share = torch.sigmoid(more_lse - lse[rows]).unsqueeze(-1)
    if isinstance(rows, slice):
        out[rows].lerp_(more.to(out.dtype), share)
    else:
        out[rows] = torch.lerp(out[rows], more.to(out.dtype), share)
    lse[rows] = torch.logaddexp(lse[rows], more_lse)
