"""safetensors files that many ranks write at once, each its own rows, without communication.

A tensor is stored row by row, and FSDP2 gives each rank consecutive rows, so a rank's byte range follows from
the shapes. The file does not depend on the number of ranks. Its folder must be on a shared file system.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from fastrl.policy.shard import Rows

KINDS = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
    torch.bool: "BOOL",
}  # fmt: skip
ALIGNMENT = 8


def write_rows(path: Path, tensors: Mapping[str, Rows], first: bool) -> None:
    """Write this rank's rows; all ranks call it with the same names, shapes and dtypes, in any order.

    Args:
        first: True on the rank that also writes the header.
    Raises: OSError: the file can't be written, or the disk is full.
    """
    header, starts, size = layout(tensors)
    file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        if first:
            os.ftruncate(file, size)  # the final size, so data of other ranks is never cut
            write_at(file, memoryview(header), 0)
        for name, rows in tensors.items():
            if rows.values is None or not rows.values.numel():
                continue
            row_bytes = rows.values.nbytes // rows.values.shape[0] if rows.values.ndim else 0
            write_at(file, bytes_of(rows.values), starts[name] + rows.first * row_bytes)
        os.fsync(file)
    finally:
        os.close(file)


def layout(tensors: Mapping[str, Rows]) -> tuple[bytes, dict[str, int], int]:
    """Return the header, the offset of each tensor, and the file's size, in bytes."""
    described: dict[str, object] = {"__metadata__": {"format": "pt"}}
    starts: dict[str, int] = {}
    end = 0
    for name in sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name)):
        rows = tensors[name]
        start, end = end, end + torch.Size(rows.shape).numel() * rows.dtype.itemsize
        described[name] = {
            "dtype": KINDS[rows.dtype],
            "shape": list(rows.shape),
            "data_offsets": [start, end],
        }
        starts[name] = start
    text = json.dumps(described, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    header = len(text).to_bytes(8, "little") + text
    return header, {name: len(header) + start for name, start in starts.items()}, len(header) + end


def bytes_of(values: Tensor) -> memoryview:
    return values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def write_at(file: int, data: memoryview, offset: int) -> None:
    """Write all data at an offset; one call of pwrite may write less."""
    while data:
        written = os.pwrite(file, data, offset)
        data, offset = data[written:], offset + written
