"""prefix_attention: attention of packed sequences whose shared prefixes are stored once."""

from __future__ import annotations

import torch
from torch import Tensor

from fastrl.kernels._checks import FLOATS, check_at_least_one, check_device, check_dtype, check_shape, refuse
from fastrl.kernels._compiled import constant
from fastrl.kernels._dispatch import Backend, pick
from fastrl.kernels.prefix_attention.layout import OP, TreeLayout
from fastrl.kernels.prefix_attention.library import IMPLEMENTATIONS, lists_of, prefix_attention_op
from fastrl.kernels.prefix_attention.reference import prefix_attention_reference

__all__ = ["TreeLayout", "prefix_attention"]


def prefix_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tree: TreeLayout,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    window: int | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Return the attention of every token to the tokens before it on its own path through a prefix forest.

        out[i, h] = sum_j softmax_j(cap(scaling * query[i, h] . key[j, h // g])) value[j, h // g]
        over tokens j with  j <= i < tree.subtree_stop[j]  and  tree.depths[i] - tree.depths[j] < window
        cap(x) = softcap * tanh(x / softcap),   g = Hq / Hkv

    Args:
        query: [M, Hq, K] bf16, fp16, fp32 or fp64, tokens of the forest in depth-first order.
        key, value: [M, Hkv, K] and [M, Hkv, Kv] in query's dtype.
        tree: TreeLayout.of(prefix_tree(sequences), device), or TreeLayout.packed(cu_seqlens).
        scaling: None: 1 / sqrt(K).
        softcap: > 0, or None for no cap.
        window: >= 1, or None for the whole path.
        backend: "triton" (GPU, bf16 and fp16), "torch" (anywhere), "reference", or "auto": triton if usable,
            otherwise torch.
    Returns: [M, Hq, Kv], differentiable in query, key and value.
    Raises:
        ValueError: shapes disagree or a value is out of range.   TypeError: any other dtype.
        RuntimeError: the named backend is not usable here.
    Numerics: float32 scores and sums (float64 for float64); bitwise reproducible.
    Cost: one score per visible pair of tokens; no [M, M] tensor except in the reference.
    """
    _check(query, key, value, tree, softcap, window)
    scaling = query.shape[2] ** -0.5 if scaling is None else float(scaling)
    name = _choose(backend, query.device, query.dtype)
    if name == "reference":
        return prefix_attention_reference(query, key, value, tree, scaling, softcap, window)
    lists = lists_of(tree, name, max(query.shape[2], value.shape[2]), window)
    out: Tensor
    out, _ = prefix_attention_op(
        query,
        key,
        value,
        tree.depths,
        tree.subtree_stop,
        tree.segments,
        lists,
        scaling,
        softcap,
        window,
        name,
    )
    return out


def _check(
    query: Tensor, key: Tensor, value: Tensor, tree: TreeLayout, softcap: float | None, window: int | None
) -> None:
    check_dtype(OP, "query", query, *FLOATS)
    if query.dim() != 3:
        refuse(OP, "query", "shape (M, Hq, K)", tuple(query.shape))
    if key.dim() != 3 or key.shape[1] < 1 or query.shape[1] % key.shape[1]:
        refuse(OP, "key", f"shape (M, Hkv, K), Hkv a divisor of {query.shape[1]}", tuple(key.shape))
    check_shape(OP, "key", key, (query.shape[0], key.shape[1], query.shape[2]))
    check_shape(OP, "value", value, (*key.shape[:2], value.shape[-1]))
    for name, tensor in (("key", key), ("value", value)):
        check_dtype(OP, name, tensor, query.dtype)
        check_device(OP, name, tensor, query.device)
    if tree.num_slots != query.shape[0]:
        refuse(OP, "tree", f"one of {query.shape[0]} tokens", f"one of {tree.num_slots}")
    check_device(OP, "tree", tree.depths, query.device)
    if softcap is not None and not softcap > 0:
        refuse(OP, "softcap", "> 0 or None", softcap)
    check_at_least_one(OP, window=window)


@constant
def _choose(backend: str, device: torch.device, dtype: torch.dtype) -> str:
    if backend == "auto" and device.type == "cpu":
        backend = "torch"  # on a CPU Triton has only its interpreter
    return pick(OP, backend, IMPLEMENTATIONS, device, dtype).name
