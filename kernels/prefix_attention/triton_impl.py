"""prefix_attention in Triton: one forward kernel and three backward kernels over the layout's tile lists."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastrl.kernels.prefix_attention.triton_kernels import (
    prefix_delta_kernel,
    prefix_forward_kernel,
    prefix_key_gradient_kernel,
    prefix_query_gradient_kernel,
)

DOTS = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
DELTA_ROWS = 64


@dataclass(frozen=True, slots=True)
class Tile:
    """Tile sizes of a kernel; they do not depend on lengths, so nothing is recompiled."""

    query: int
    key: int
    num_warps: int

    def constants(self) -> dict[str, Any]:
        return {"TILE_QUERY": self.query, "TILE_KEY": self.key}

    def options(self) -> dict[str, Any]:
        return {"num_warps": self.num_warps, "num_stages": 2, "enable_fp_fusion": True}


@dataclass(frozen=True, slots=True)
class Tiles:
    """Tiles of the three kernels, as large as registers allow on sm_80."""

    forward: Tile
    query_gradient: Tile
    key_gradient: Tile


def tiles_of(head: int) -> Tiles:
    """Return the tiles for a head size."""
    if head <= 64:
        return Tiles(Tile(128, 64, 8), Tile(128, 32, 8), Tile(32, 64, 8))
    if head <= 128:
        return Tiles(Tile(128, 32, 8), Tile(64, 32, 4), Tile(32, 64, 8))
    return Tiles(Tile(64, 32, 8), Tile(64, 32, 8), Tile(32, 32, 8))


def constants(head: int, head_value: int, capped: bool, windowed: bool, dot: Any) -> dict[str, Any]:
    """Return the kernels' compile-time constants other than tiles."""
    return {
        "HEAD": head,
        "HEAD_VALUE": head_value,
        "BLOCK_HEAD": max(16, triton.next_power_of_2(head)),
        "BLOCK_VALUE": max(16, triton.next_power_of_2(head_value)),
        "CAPPED": capped,
        "WINDOWED": windowed,
        "DOT": dot,
    }


def arguments(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, softcap: float | None, window: int | None
) -> dict[str, Any]:
    """Return the kernels' common arguments: log2(e) * z = outward * raw, or outward * tanh(inward * raw)."""
    # the interpreter's bfloat16 products are wrong
    dot = DOTS[query.dtype] if query.is_cuda else tl.float32
    head, head_value = query.shape[2], value.shape[2]
    return {
        "tokens": query.shape[0],
        "num_heads": query.shape[1],
        "num_kv_heads": key.shape[1],
        "window": 0 if window is None else window,
        "outward": math.log2(math.e) * (scaling if softcap is None else softcap),
        "inward": 1.0 if softcap is None else scaling / softcap,
        **constants(head, head_value, softcap is not None, window is not None, dot),
    }


def forward(
    query: Tensor, key: Tensor, value: Tensor, depths: Tensor, subtree_stop: Tensor, lists: list[Tensor],
    scaling: float, softcap: float | None, window: int | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return (out [M, Hq, Kv], log-sum-exps [M, Hq])."""
    tokens, num_heads, head = query.shape
    out = torch.empty((tokens, num_heads, value.shape[2]), dtype=value.dtype, device=value.device)
    lse = torch.empty((tokens, num_heads), dtype=torch.float32, device=query.device)
    tile = tiles_of(max(head, value.shape[2])).forward
    prefix_forward_kernel[(triton.cdiv(tokens, tile.query), num_heads)](
        query.contiguous(), key.contiguous(), value.contiguous(), out, lse, depths, subtree_stop, *lists[:2],
        **arguments(query, key, value, scaling, softcap, window), **tile.constants(), **tile.options(),
    )  # fmt: skip
    return out, lse


def backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor,
    depths: Tensor, subtree_stop: Tensor, lists: list[Tensor],
    scaling: float, softcap: float | None, window: int | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return the gradients of query, key and value."""
    tokens, num_heads, head = query.shape
    grad, query, key, value = (x.contiguous() for x in (grad, query, key, value))
    delta = torch.empty_like(lse)
    found = [torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (query, key, value)]
    tiles, common = (
        tiles_of(max(head, value.shape[2])),
        arguments(query, key, value, scaling, softcap, window),
    )
    prefix_delta_kernel[(triton.cdiv(tokens, DELTA_ROWS), num_heads)](
        grad, out, delta, tokens, num_heads, HEAD_VALUE=value.shape[2],
        BLOCK_VALUE=common["BLOCK_VALUE"], TILE_QUERY=DELTA_ROWS,
    )  # fmt: skip
    given, tile = (grad, query, key, value, lse, delta), tiles.query_gradient
    prefix_query_gradient_kernel[(triton.cdiv(tokens, tile.query), num_heads)](
        *given, found[0], depths, subtree_stop, *lists[2:4], **common, **tile.constants(), **tile.options()
    )
    tile = tiles.key_gradient
    prefix_key_gradient_kernel[(triton.cdiv(tokens, tile.key), key.shape[1])](
        *given, *found[1:], depths, subtree_stop, *lists[4:], **common, **tile.constants(), **tile.options()
    )
    return found[0], found[1], found[2]
