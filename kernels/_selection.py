"""Selection of active rows, and their split into chunks."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from fastrl.kernels._layout import Layout


def active_rows(active: Tensor, most: int | None) -> Tensor:
    """Return the indices where `active` [T] is True, [n] int64, rising.

    With `most`, they are padded with T to that length. Without it, counting them costs one host sync.

    Raises: RuntimeError: `most` is None while a CUDA graph is captured; or more than `most` rows are active
        (on a GPU as a device assertion).
    """
    if most is None:
        if active.is_cuda and torch.cuda.is_current_stream_capturing():
            raise RuntimeError("[ops] max_active_rows: expected a number while a graph is captured, got None")
        return active.nonzero()[:, 0]
    num_rows, most = active.shape[0], min(most, active.shape[0])
    ranks = active.cumsum(0) - 1
    fits = active.sum() <= most
    message = f"[ops] max_active_rows: expected at least the active rows, got {most}"
    if not active.is_cuda:
        if not bool(fits):
            raise RuntimeError(f"{message} for {int(active.sum())}")
    else:
        torch._assert_async(fits, message)
    slots = torch.where(active, ranks, most).clamp(max=most)
    rows = torch.full((most + 1,), num_rows, dtype=torch.int64, device=active.device)
    rows.scatter_(0, slots, torch.arange(num_rows, device=active.device))
    return rows[:most]


def split_rows(rows: Tensor, layout: Layout, whole_chunks: bool, padding: int) -> list[Tensor]:
    """Split rows into the layout's chunks, at least one.

    Args:
        whole_chunks: make all chunks layout.rows long, filled with `padding`.
    """
    if whole_chunks:
        missing = -len(rows) % layout.rows
        rows = pad(rows, (0, missing), value=padding)
        return list(torch.split(rows, layout.rows)) or [rows]
    return list(torch.split(rows, layout.chunk_sizes(len(rows))))


def pack_sequences(rows: Tensor, cu_seqlens: Tensor, most: int) -> list[Tensor] | None:
    """Split rows into chunks of whole sequences, of at most `most` rows. Costs one host sync.

    Returns: None if a sequence has more than `most` rows.
    """
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
