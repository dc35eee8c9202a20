"""tree_decode in Triton: one launch over pieces of trunks and tails, and one that merges their results."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastrl.kernels.tree_decode.plan import DecodePlan
from fastrl.kernels.tree_decode.triton_kernels import decode_kernel, decode_merge_kernel

VECTOR = 8  # elements; widths and strides that are multiples of it allow 16-byte loads
QUERIES = 64
"""Queries per tile (rows x query heads of a key-value head), the size of the widest tensor instructions."""
LEAST = 16  # smallest size of tl.dot
DOTS: dict[torch.dtype, Any] = {
    torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16,
}  # fmt: skip
MERGE: dict[str, Any] = {"BLOCK_P": 8}
MERGE_OPTIONS: dict[str, Any] = {"num_warps": 4, "enable_fp_fusion": True}


@dataclass(frozen=True, slots=True)
class Blocks:
    """Compile-time sizes, powers of 2 from head widths and query groups; lengths need no recompilation."""

    constants: dict[str, Any]
    options: dict[str, Any]

    @classmethod
    def of(cls, width: int, value_width: int, group: int, itemsize: int, aligned: bool) -> Blocks:
        """Return sizes for tensor cores with aligned 16-bit rows, and small ones otherwise."""
        block_k, block_v = (max(LEAST, triton.next_power_of_2(size)) for size in (width, value_width))
        tail, row_bytes = max(LEAST, triton.next_power_of_2(group)), max(block_k, block_v) * itemsize
        wide = itemsize == 2 and aligned
        constants = {
            "TRUNK_M": max(QUERIES, tail) if wide else tail,
            "TAIL_M": tail,
            "BLOCK_N": LEAST if not wide else 64 if row_bytes <= 128 else 32,
            "BLOCK_K": block_k,
            "BLOCK_V": block_v,
            "ALIGNED": aligned,
        }
        options = {
            "num_warps": 4 if row_bytes <= 256 else 8,
            "num_stages": 1 if not aligned else 3 if row_bytes <= 256 else 2,
            "maxnreg": 255,  # otherwise the assembler stops at 128 and spills
            "enable_fp_fusion": True,
        }
        return cls(constants, options)


def tree_decode_triton(
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
    heads, value_width = values.shape[1:]
    out = query.new_empty(num_rows, query_heads, value_width)
    if num_rows == 0:
        return out
    tensors = _tensors(query, keys, values)
    lengths = (width, value_width, *(value for name, value in tensors.items() if "stride" in name))
    aligned = all(length % VECTOR == 0 for length in lengths)
    blocks = Blocks.of(width, value_width, query_heads // heads, query.element_size(), aligned)
    work = plan.work(blocks.constants["TRUNK_M"] // (query_heads // heads))
    tail_lengths, tail_partials = tail_lengths.contiguous(), int(plan.trunk_starts[-1])
    num_partials = tail_partials + num_rows * plan.num_tail_pieces
    sums = torch.empty(num_partials, query_heads, value_width, dtype=torch.float32, device=query.device)
    stats = torch.empty(num_partials, query_heads, 2, dtype=torch.float32, device=query.device)
    shared = {
        "partial_sums": sums,
        "partial_stats": stats,
        "trunk_starts": work.trunk_starts,
        "tail_lengths": tail_lengths,
        "tail_pieces": plan.num_tail_pieces,
        "tail_partials": tail_partials,
        "split": plan.split,
        "value_width": value_width,
    }
    num_items = work.items.shape[0]
    decode_kernel[(num_items + num_rows * plan.num_tail_pieces, heads)](
        **shared,
        **tensors,
        items=work.items,
        prefix_lengths=work.prefix_lengths,
        block_table=plan.block_table,
        table_stride=plan.block_table.stride(0),
        num_items=num_items,
        block_size=plan.block_size,
        group=query_heads // heads,
        heads=heads,
        width=width,
        window=window or 0,
        WINDOWED=window is not None,
        DOT=DOTS[query.dtype] if os.environ.get("TRITON_INTERPRET") != "1" else tl.float32,
        **_scaling(scaling, softcap),
        **blocks.constants,
        **blocks.options,
    )
    decode_merge_kernel[(num_rows, query_heads)](
        **shared, out=out, BLOCK_V=blocks.constants["BLOCK_V"], **MERGE, **MERGE_OPTIONS
    )
    return out


def _tensors(query: Tensor, keys: Tensor, values: Tensor) -> dict[str, Any]:
    given: dict[str, Any] = {"query": query, "keys": keys, "values": values}
    strides = {}
    for name, tensor in (("query", query), ("key", keys), ("value", values)):
        strides[f"{name}_stride"], strides[f"{name}_head_stride"] = tensor.stride(0), tensor.stride(1)
    return {**given, **strides}


def _scaling(scaling: float, softcap: float | None) -> dict[str, Any]:
    """Return the arguments of score * log2(e) = outward * product, or outward * tanh(inward * product)."""
    to_log2 = 1 / math.log(2)
    if softcap is None:
        return {"outward": scaling * to_log2, "inward": 1.0, "CAPPED": False}
    return {"outward": softcap * to_log2, "inward": scaling / softcap, "CAPPED": True}
