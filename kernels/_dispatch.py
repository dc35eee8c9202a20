"""Choice of an op's implementation. A named backend runs or raises; "auto" takes the first usable one."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Backend = Literal["auto", "cpp", "cuda", "triton", "torch", "reference"]

log = logging.getLogger("fastrl.ops")
_announced: set[tuple[str, str, str]] = set()


@dataclass(frozen=True, slots=True)
class Implementation:
    """One implementation of an op."""

    name: str
    run: Callable[..., Any]
    unusable: Callable[[torch.device, torch.dtype], str | None]
    """(device, dtype) -> why it can't run there; None if it can."""


def anywhere(device: torch.device, dtype: torch.dtype) -> str | None:
    return None


def no_float64(device: torch.device, dtype: torch.dtype) -> str | None:
    return "takes only bfloat16, float16 and float32" if dtype == torch.float64 else None


def cpu_only(device: torch.device, dtype: torch.dtype) -> str | None:
    if device.type != "cpu":
        return f"runs on the CPU, the tensors are on {device}"
    return no_float64(device, dtype)


def triton_only(device: torch.device, dtype: torch.dtype) -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "needs the package triton, which is not installed"
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"runs on a GPU, the tensors are on {device} (its interpreter: TRITON_INTERPRET=1)"
    return no_float64(device, dtype)


def device_of(tensor: Tensor) -> AbstractContextManager[Any]:
    """Return a context in which the tensor's GPU is current: Triton and CUDA launch on the current one."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def pick(
    op: str,
    backend: str,
    implementations: Sequence[Implementation],
    device: torch.device,
    dtype: torch.dtype,
) -> Implementation:
    """Return the implementation named `backend`, or for "auto" the first usable one.

    Raises:
        ValueError: no implementation has that name.
        RuntimeError: the named one can't run here; the message says why and lists those that can.
    """
    reasons = {option.name: option.unusable(device, dtype) for option in implementations}
    usable = [name for name, reason in reasons.items() if reason is None]
    by_name = {option.name: option for option in implementations}
    if backend == "auto":
        if not usable:
            raise RuntimeError(f"[{op}] backend: expected one for {device} and {dtype}, got none")
        _announce(op, usable[0], str(device))
        return by_name[usable[0]]
    if backend not in by_name:
        raise ValueError(f"[{op}] backend: expected auto or one of {sorted(by_name)}, got {backend!r}")
    if reasons[backend] is not None:
        problem = f"{backend!r}, which {reasons[backend]}"
        raise RuntimeError(f"[{op}] backend: expected one of {usable}, got {problem}")
    return by_name[backend]


def _announce(op: str, name: str, device: str) -> None:
    if (op, name, device) not in _announced:
        _announced.add((op, name, device))
        log.info("%s runs as %s on %s", op, name, device)
