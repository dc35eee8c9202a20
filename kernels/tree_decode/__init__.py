"""tree_decode: decode attention over shared prefixes (trunks) and paged tails."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from fastrl.kernels._checks import FLOATS, check_device, check_dtype, check_shape, refuse
from fastrl.kernels._dispatch import Backend, Implementation, anywhere, cpu_only, device_of, pick, triton_only
from fastrl.kernels.tree_decode.plan import OP, DecodePlan
from fastrl.kernels.tree_decode.reference import tree_decode_reference
from fastrl.kernels.tree_decode.torch_impl import tree_decode_torch

__all__ = ["DecodePlan", "tree_decode"]


def _cpp(*arguments: Any) -> Tensor:
    from fastrl.kernels.tree_decode.cpp_impl import tree_decode_cpp

    return tree_decode_cpp(*arguments)


def _no_float16(device: torch.device, dtype: torch.dtype) -> str | None:
    return "takes only bfloat16 and float32" if dtype == torch.float16 else cpu_only(device, dtype)


def _triton(*arguments: Any) -> Tensor:
    from fastrl.kernels.tree_decode.triton_impl import tree_decode_triton

    return tree_decode_triton(*arguments)


IMPLEMENTATIONS = (
    Implementation("cpp", _cpp, _no_float16),
    Implementation("triton", _triton, triton_only),
    Implementation("torch", tree_decode_torch, anywhere),
    Implementation("reference", tree_decode_reference, anywhere),
)


def tree_decode(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    plan: DecodePlan,
    tail_lengths: Tensor,
    *,
    scaling: float,
    softcap: float | None = None,
    window: int | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Return the attention of one new token per row over its trunk (shared segments) and its own tail.

        out[r, h] = sum_j softmax_j(cap(scaling * query[r, h] . keys[j, h // g])) values[j, h // g]
        cap(x) = softcap * tanh(x / softcap)                                    (softcap None: cap(x) = x)

    j runs over the slots of the row's trunk and tail, whose last token is the query's own; with a window,
    over the last `window` of them. A segment is read once for all rows below it.

    Args:
        query: [R, Hq, K] of the plan's rows; Hq is a multiple of Hkv, g = Hq / Hkv.
        keys, values: [P, Hkv, K] and [P, Hkv, Kv], the pool of one layer, in the dtype of query; the last
            dimension is contiguous, other strides are free. Slots that no row sees may hold any values.
        plan: the rows' segments and block table (`DecodePlan.make`).
        tail_lengths: [R] int32, 1 .. plan.max_tail (checked only on a CPU, since on a GPU it would cost a
            host sync).
        window: >= 1, or None.
    Returns: [R, Hq, Kv] in the dtype of query. No gradient: decoding is inference.
    Raises:
        ValueError: shapes or devices disagree, or a value is out of range.   TypeError: dtypes.
        RuntimeError: an input requires a gradient, or the named backend is not usable here.
    Numerics: fp32 scores, sums and partial results, merged in a fixed order (float64 inputs: float64); on a
        GPU the softmax weights of 16-bit values are rounded to their dtype. cpp and triton: a row's result is
        bitwise the same in any batch and for any number of threads.
    Cost: reads each segment once per tile of rows, each tail once; no host sync on a GPU.
    """
    _check(query, keys, values, plan, tail_lengths)
    if window is not None and window < 1:
        refuse(OP, "window", ">= 1 or None", window)
    if softcap is not None and not softcap > 0:
        refuse(OP, "softcap", "> 0 or None", softcap)
    chosen = _choose(backend, query.device, query.dtype)
    with device_of(query):
        out: Tensor = chosen.run(query, keys, values, plan, tail_lengths, scaling, softcap, window)
    return out


@cache  # called once per layer and step
def _choose(backend: str, device: torch.device, dtype: torch.dtype) -> Implementation:
    return pick(OP, backend, IMPLEMENTATIONS, device, dtype)


def _check(query: Tensor, keys: Tensor, values: Tensor, plan: DecodePlan, tail_lengths: Tensor) -> None:
    check_dtype(OP, "query", query, *FLOATS)
    if query.dim() != 3 or query.shape[0] != plan.num_rows or query.stride(2) != 1:
        refuse(OP, "query", f"shape ({plan.num_rows}, Hq, K), last dimension contiguous", tuple(query.shape))
    for name, tensor in (("keys", keys), ("values", values)):
        check_dtype(OP, name, tensor, query.dtype)
        check_device(OP, name, tensor, query.device)
        if tensor.dim() != 3 or tensor.stride(2) != 1 or tensor.shape[2] < 1:
            refuse(OP, name, "shape (P, Hkv, width), last dimension contiguous", tuple(tensor.shape))
    slots, heads, width = keys.shape
    if width != query.shape[2] or heads < 1 or query.shape[1] % heads:
        refuse(OP, "keys", f"K = {query.shape[2]} and a divisor of {query.shape[1]} heads", tuple(keys.shape))
    check_shape(OP, "values", values, (slots, heads, values.shape[2]))
    if plan.end_slot > slots:
        refuse(OP, "keys", f"at least the {plan.end_slot} slots of the plan's segments", slots)
    check_dtype(OP, "tail_lengths", tail_lengths, torch.int32)
    check_shape(OP, "tail_lengths", tail_lengths, (plan.num_rows,))
    check_device(OP, "tail_lengths", tail_lengths, query.device)
    check_device(OP, "plan", plan.block_table, query.device)
    if torch.is_grad_enabled() and (query.requires_grad or keys.requires_grad or values.requires_grad):
        raise RuntimeError(f"[{OP}] query: expected tensors without a gradient, got one that requires it")
