"""The rows that are worked on: gathered to the front, cut into chunks, padded where a shape is promised."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from fastrl.kernels._layout import Layout


def active_rows(active: Tensor, most: int | None) -> Tensor:
    """[n] int64: where `active` [T] is true, rising; with `most` then T, up to most of them.

    Without `most` the device is waited for, as n is how many there are.

    Raises: RuntimeError: none was given while a CUDA graph is captured; or more than `most` are active
        (on a GPU from the device, as an assertion).
    """
    if most is None:
        if active.is_cuda and torch.cuda.is_current_stream_capturing():
            raise RuntimeError("[ops] max_active_rows: expected a number while a graph is captured, got None")
        return active.nonzero()[:, 0]
    num_rows, most = active.shape[0], min(most, active.shape[0])
    places = active.cumsum(0) - 1
    fits = active.sum() <= most
    message = f"[ops] max_active_rows: expected at least the active rows, got {most}"
    if not active.is_cuda:
        if not bool(fits):
            raise RuntimeError(f"{message} for {int(active.sum())}")
    else:
        torch._assert_async(fits, message)
    slots = torch.where(active, places, most).clamp(max=most)
    rows = torch.full((most + 1,), num_rows, dtype=torch.int64, device=active.device)
    rows.scatter_(0, slots, torch.arange(num_rows, device=active.device))
    return rows[:most]


def split_rows(rows: Tensor, layout: Layout, whole_chunks: bool, padding: int) -> list[Tensor]:
    """Chunks of the layout, at least one; whole_chunks: all of layout.rows rows, filled with `padding`."""
    if whole_chunks:
        missing = -len(rows) % layout.rows
        rows = pad(rows, (0, missing), value=padding)
        return list(torch.split(rows, layout.rows)) or [rows]
    return list(torch.split(rows, layout.chunk_sizes(len(rows))))


def pack_sequences(rows: Tensor, cu_seqlens: Tensor, most: int) -> list[Tensor] | None:
    """Chunks of whole sequences, in order, of up to `most` rows; None where a sequence has more. The device
    is waited for."""
    ends = torch.searchsorted(rows, cu_seqlens[1:].to(rows.dtype))
    lengths = ends.diff(prepend=ends.new_zeros(1)).tolist()
    if max(lengths, default=0) > most:
        return None
    sizes = [0]
    for length in lengths:
        if sizes[-1] + length > most:
            sizes.append(0)
        sizes[-1] += length
    return list(torch.split(rows, sizes))
