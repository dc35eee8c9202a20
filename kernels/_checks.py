"""Argument checks of the public ops; every message reads `[op] argument: expected ..., got ...`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def refuse(op: str, name: str, expected: str, got: object) -> None:
    """Raise the ValueError of a bad argument."""
    raise ValueError(f"[{op}] {name}: expected {expected}, got {got}")


def check_shape(op: str, name: str, tensor: Tensor, shape: Sequence[int]) -> None:
    if tuple(tensor.shape) != tuple(shape):
        refuse(op, name, f"shape {tuple(shape)}", tuple(tensor.shape))


def check_dtype(op: str, name: str, tensor: Tensor, *dtypes: torch.dtype) -> None:
    if tensor.dtype not in dtypes:
        raise TypeError(f"[{op}] {name}: expected {' or '.join(map(str, dtypes))}, got {tensor.dtype}")


def check_device(op: str, name: str, tensor: Tensor, device: torch.device) -> None:
    if tensor.device != device:
        refuse(op, name, f"a tensor on {device}", f"one on {tensor.device}")


def check_token_vector(op: str, name: str, tensor: Tensor | None, like: Tensor) -> None:
    """Check a float tensor [T], or None."""
    if tensor is not None:
        check_shape(op, name, tensor, like.shape[:1])
        check_dtype(op, name, tensor, *FLOATS)
        check_device(op, name, tensor, like.device)


def check_cu_seqlens(op: str, cu_seqlens: Tensor, device: torch.device) -> None:
    """Check that cu_seqlens is [S + 1] int32 on the device."""
    check_dtype(op, "cu_seqlens", cu_seqlens, torch.int32)
    check_device(op, "cu_seqlens", cu_seqlens, device)
    if cu_seqlens.dim() != 1 or cu_seqlens.numel() < 1:
        refuse(op, "cu_seqlens", "shape (S + 1,)", tuple(cu_seqlens.shape))


def check_bounds(op: str, cu_seqlens: Tensor, num_tokens: int) -> None:
    """Check that cu_seqlens rises from 0 to T; only on a CPU, since on a GPU it would cost a host sync."""
    if cu_seqlens.device.type == "cpu":
        first, last = int(cu_seqlens[0]), int(cu_seqlens[-1])
        if first != 0 or last != num_tokens:
            refuse(op, "cu_seqlens", f"to run from 0 to {num_tokens}", f"{first} to {last}")
        if bool((cu_seqlens.diff() < 0).any()):
            refuse(op, "cu_seqlens", "values that never fall", cu_seqlens.tolist())


def check_at_least_one(op: str, **counts: int | None) -> None:
    for name, count in counts.items():
        if count is not None and count < 1:
            refuse(op, name, ">= 1 or None", count)


def whole_weight(weight: Tensor) -> Tensor:
    """Return the weight, gathered if it is sharded; its gradient is then summed over ranks and resharded."""
    if type(weight) in (Tensor, torch.nn.Parameter):
        return weight
    from torch.distributed.tensor import DTensor, Partial  # slow to import

    if not isinstance(weight, DTensor):
        return weight
    return weight.full_tensor(grad_placements=[Partial()] * weight.device_mesh.ndim)
