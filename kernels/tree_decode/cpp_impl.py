"""tree_decode in C++ on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import fastrl._C as _C
from fastrl.kernels.tree_decode.plan import DecodePlan

TILE = 48
"""Queries per tile: enough to amortise transposing the keys, few enough for the cache."""


def tree_decode_cpp(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    plan: DecodePlan,
    tail_lengths: Tensor,
    scaling: float,
    softcap: float | None,
    window: int | None,
) -> Tensor:
    num_rows, query_heads, width = query.shape
    num_slots, heads, value_width = values.shape
    out = query.new_empty(num_rows, query_heads, value_width)
    tail_lengths, tile = tail_lengths.contiguous(), max(1, TILE // (query_heads // heads))
    layer = _C.DecodeLayer.of(
        query=_tensor(query),
        keys=_tensor(keys),
        values=_tensor(values),
        out=out.data_ptr(),
        bf16=query.dtype == torch.bfloat16,
        sizes=(num_slots, query_heads, heads, width, value_width),
        tail_lengths=tail_lengths.data_ptr(),
        scaling=scaling,
        softcap=softcap or 0.0,
        window=window or 0,
    )
    _C.tree_decode_cpu(_plan(plan, tile), layer, torch.get_num_threads())
    return out


def _plan(plan: DecodePlan, tile: int) -> Any:
    work, table = plan.work(tile), plan.block_table
    return _C.DecodePlan.of(
        items=work.items.data_ptr(),
        num_items=work.items.shape[0],
        tile=tile,
        trunk_starts=work.trunk_starts.data_ptr(),
        prefix_lengths=work.prefix_lengths.data_ptr(),
        block_table=table.data_ptr(),
        table_shape=(*table.shape, table.stride(0)),
        block_size=plan.block_size,
    )


def _tensor(tensor: Tensor) -> tuple[int, int, int]:
    return tensor.data_ptr(), tensor.stride(0), tensor.stride(1)
