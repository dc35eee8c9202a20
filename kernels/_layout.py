"""Chunk sizes: how many rows and columns of logits are in memory at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch

CPU_KEPT_LOGITS = 40 << 20  # 160 MiB of float32
CPU_ROWS, CPU_COLUMNS = 4096, 2048  # a tile of the weight and one of logits fit into the cache
GPU_PIECE_LOGITS, GPU_KEPT_GRADIENTS = 80 << 20, 550 << 20  # 0.3 GiB of float32, 1.1 GiB of bfloat16
GPU_ROWS, GPU_COLUMNS = 8192, 16384
GPU_QUANTUM = 128  # rows of a matrix product's tile


@dataclass(frozen=True, slots=True)
class Layout:
    """Sizes of chunks, pieces and tiles."""

    rows: int
    """Rows per chunk."""
    piece: int
    """Rows scored at once; a chunk has one or more pieces."""
    columns: int
    """Columns of the vocabulary per matrix product."""
    keep: bool
    """Keep all tiles of a chunk for the gradients; otherwise the logits are recomputed."""
    quantum: int
    """Chunks, except for the last one, are multiples of this many rows."""

    def chunk_sizes(self, num_rows: int) -> list[int]:
        """Return the sizes of the fewest chunks, about equal; at least one, which may be empty."""
        count = max(1, -(-num_rows // self.rows))
        size = -(-num_rows // (count * self.quantum)) * self.quantum
        sizes = [min(size, num_rows - begin) for begin in range(0, num_rows, max(1, size))]
        return sizes or [0]


def kept_layout(device: torch.device, vocab: int, chunk_rows: int | None, one_piece: bool) -> Layout:
    """Return the layout that keeps a chunk's logits.

    Args:
        one_piece: score a chunk as one piece, since its gradients need all its scores.
    """
    if device.type == "cpu":
        rows = chunk_rows or max(16, CPU_KEPT_LOGITS // vocab)
        return Layout(rows, rows, min(vocab, CPU_COLUMNS), True, 1)
    piece = max(GPU_QUANTUM, GPU_PIECE_LOGITS // vocab // GPU_QUANTUM * GPU_QUANTUM)
    rows = chunk_rows or max(piece, GPU_KEPT_GRADIENTS // vocab // piece * piece)
    if one_piece:
        rows = chunk_rows or max(GPU_QUANTUM, GPU_KEPT_GRADIENTS // (3 * vocab) // GPU_QUANTUM * GPU_QUANTUM)
        piece = rows
    return Layout(rows, min(piece, rows), vocab, True, min(rows, GPU_QUANTUM))


def tiled_layout(device: torch.device, vocab: int, chunk_rows: int | None) -> Layout:
    """Return the layout that computes a tile of logits at a time."""
    rows, columns, quantum = (
        (CPU_ROWS, CPU_COLUMNS, 1) if device.type == "cpu" else (GPU_ROWS, GPU_COLUMNS, GPU_QUANTUM)
    )
    rows = chunk_rows or rows
    return Layout(rows, rows, min(vocab, columns), False, min(rows, quantum))
