"""prefix_attention in plain PyTorch, piece by piece; on a CPU its own attention kernel does the work."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fastrl.kernels.prefix_attention.dense import INFINITY, Dense, View
from fastrl.kernels.prefix_attention.pieces import Pieces, Squares, Trunk, pieces_of


def forward(
    query: Tensor, key: Tensor, value: Tensor, segments: Tensor, dense: Dense, window: int | None
) -> tuple[Tensor, Tensor]:
    """(out [M, Hq, Kv], log-sum-exps [M, Hq], float32 at least)"""
    pieces = pieces_of(segments, query.device)
    query, key, value = (_even(each) for each in (query, key, value))
    parts = []
    for squares in pieces.squares:
        q, k, v = (squares.take(each) for each in (query, key, value))
        parts.append(dense.forward(q, k, v, _along(squares, window)))
    out, lse = (_assemble(each, pieces) for each in zip(*parts, strict=True))
    if pieces.trunks:
        out = out.to(lse.dtype)  # joined in full precision
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
    """Gradients of query, key and value."""
    pieces = pieces_of(segments, query.device)
    grad, query, key, value = (_even(each) for each in (grad, query, key, value))
    parts = []
    for squares in pieces.squares:
        g, q, k, v, o = (squares.take(each) for each in (grad, query, key, value, out))
        sums = squares.take(lse)
        if squares.dropped is not None:
            sums = sums.masked_fill(squares.dropped.view(*squares.shape, 1), INFINITY)
        parts.append(dense.backward(g, q, k, v, o, sums, _along(squares, window)))
    dq, dk, dv = (_assemble(each, pieces) for each in zip(*parts, strict=True))
    if pieces.trunks or any(each.above is not None for each in pieces.squares):
        dq, dk, dv = (each.to(lse.dtype) for each in (dq, dk, dv))
    for squares, (_, more_dk, more_dv) in zip(pieces.squares, parts, strict=True):
        if squares.above is not None and squares.above_slots is not None:
            for total, more in ((dk, more_dk), (dv, more_dv)):
                added = more.flatten(0, 1).index_select(0, squares.above).to(total.dtype)
                total.index_add_(0, squares.above_slots, added)
    for trunk in pieces.trunks:
        rows, view = _below(trunk, window)
        if len(view.rows):
            below = (grad[rows], query[rows], key[trunk.keys], value[trunk.keys], out[rows], lse[rows])
            g, q, k, v, o, sums = (each[None] for each in below)
            found = dense.backward(g, q, k, v, o, sums, view)
            for total, slots, each in zip((dq, dk, dv), (rows, trunk.keys, trunk.keys), found, strict=True):
                total[slots] += each[0]  # no slot twice
    return dq.to(query.dtype), dk.to(key.dtype), dv.to(value.dtype)


def _even(x: Tensor) -> Tensor:
    """A head's numbers side by side, as PyTorch's kernel wants them."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _along(squares: Squares, window: int | None) -> View:
    depths = np.arange(squares.shape[1])
    return View(depths, depths, window)


def _below(trunk: Trunk, window: int | None) -> tuple[slice | Tensor, View]:
    rows, depths = trunk.rows(window)
    return rows, View(depths, trunk.key_depths, window)


def _assemble(parts: tuple[Tensor, ...], pieces: Pieces) -> Tensor:
    """[S, L, ...] of all squares -> [M, ...]"""
    flat = [each.flatten(0, 1) for each in parts]
    places = flat[0] if len(flat) == 1 else torch.cat(flat)
    return places if pieces.order is None else places.index_select(0, pieces.order)


def _join(out: Tensor, lse: Tensor, rows: slice | Tensor, more: Tensor, more_lse: Tensor) -> None:
    """Two parts of a softmax become one, in place."""
    share = torch.sigmoid(more_lse - lse[rows]).unsqueeze(-1)
    if isinstance(rows, slice):
        out[rows].lerp_(more.to(out.dtype), share)
    else:
        out[rows] = torch.lerp(out[rows], more.to(out.dtype), share)
    lse[rows] = torch.logaddexp(lse[rows], more_lse)
