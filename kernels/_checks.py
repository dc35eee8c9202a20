"""Argument checks of the public ops; every message reads `[op] argument: expected ..., got ...`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def refuse(op: str, name: str, expected: str, got: object) -> None:
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
    """A per-token float tensor, or nothing."""
    if tensor is not None:
        check_shape(op, name, tensor, like.shape[:1])
        check_dtype(op, name, tensor, *FLOATS)
        check_device(op, name, tensor, like.device)


def check_cu_seqlens(op: str, cu_seqlens: Tensor, device: torch.device) -> None:
    """[S + 1] int32."""
    check_dtype(op, "cu_seqlens", cu_seqlens, torch.int32)
    check_device(op, "cu_seqlens", cu_seqlens, device)
    if cu_seqlens.dim() != 1 or cu_seqlens.numel() < 1:
        refuse(op, "cu_seqlens", "shape (S + 1,)", tuple(cu_seqlens.shape))


def check_bounds(op: str, cu_seqlens: Tensor, num_tokens: int) -> None:
    """From 0 to T, never falling; read on the CPU alone: a GPU is not waited for."""
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
    """A sharded weight is gathered; each rank's gradient is a part of a sum, that goes back to the shards."""
    if type(weight) in (Tensor, torch.nn.Parameter):
        return weight
    from torch.distributed.tensor import DTensor, Partial  # slow to import

    if not isinstance(weight, DTensor):
        return weight
    return weight.full_tensor(grad_placements=[Partial()] * weight.device_mesh.ndim)
