"""linear_logprob on a GPU: scores and gradients of tiles of logits, one reading of them each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from fastrl.kernels._rows import RowScores, Tile
from fastrl.kernels.linear_logprob.triton_kernels import floor_kernel, gradient_kernel, score_kernel

VECTOR = 8  # elements; rows whose lengths are multiples of it are read 16 bytes at a time, or 32


@dataclass(frozen=True, slots=True)
class Blocks:
    """Columns that a program holds at a time, whatever the lengths: nothing is compiled for a shape."""

    columns: int
    num_warps: int
    maxnreg: int | None = None

    def options(self, *lengths: int) -> dict[str, Any]:
        return {
            "ALIGNED": all(length % VECTOR == 0 for length in lengths),
            "BLOCK": self.columns,
            "num_warps": self.num_warps,
            "maxnreg": self.maxnreg,
            "enable_fp_fusion": False,  # so that every kernel makes the same z, bit for bit
        }


# 16 columns a thread, so that most of its instructions are theirs; registers for 4 rows on a multiprocessor.
SCORE = Blocks(columns=4096, num_warps=8, maxnreg=64)
GRADIENT = Blocks(columns=4096, num_warps=8)
FLOORS = Blocks(columns=4096, num_warps=16)  # each step of the search waits for a whole reading


class TritonRows:
    """RowMath in Triton; sums are fp32 within a block of columns and float64 across blocks."""

    def score(self, tile: Tile, scores: RowScores, vocab: int) -> None:
        num_rows, width = tile.logits.shape
        if num_rows == 0:
            return
        score_kernel[(num_rows,)](
            **_inputs(tile),
            **{name: getattr(scores, name) for name in RowScores.__slots__},
            vocab=vocab,
            **SCORE.options(tile.logits.stride(0), width, tile.first),
        )

    def gradient(
        self, tile: Tile, scores: RowScores, grad_logprobs: Tensor, grad_entropy: Tensor | None, out: Tensor
    ) -> None:
        num_rows, width = tile.logits.shape
        if num_rows == 0:
            return
        blocks = triton.cdiv(width, GRADIENT.columns)
        gradient_kernel[(num_rows * blocks,)](
            **_inputs(tile),
            max=scores.max,
            total=scores.total,
            logprobs=scores.logprobs,
            entropy=scores.entropy,
            grad_logprobs=grad_logprobs.contiguous(),
            grad_entropy=None if grad_entropy is None else grad_entropy.contiguous(),
            out=out,
            out_stride=out.stride(0),
            blocks=blocks,
            **GRADIENT.options(tile.logits.stride(0), out.stride(0), width, tile.first),
        )

    def floors(self, tile: Tile, top_k: int, top_p: float) -> Tensor:
        num_rows, width = tile.logits.shape
        out = torch.empty(num_rows, dtype=torch.float32, device=tile.logits.device)
        if num_rows:
            options = FLOORS.options(tile.logits.stride(0), width)
            floor_kernel[(num_rows,)](**_logits(tile), out=out, top_k=top_k, top_p=top_p, **options)
        return out


def _inputs(tile: Tile) -> dict[str, Any]:
    return {**_logits(tile), "first": tile.first, "ids": tile.ids.contiguous(), "floor": tile.floor}


def _logits(tile: Tile) -> dict[str, Any]:
    """z = outward * (raw + bias), or outward * tanh(inward * (raw + bias)), outward over the temperature"""
    outward = tile.logit_scale if tile.softcap is None else tile.softcap
    inward = 1.0 if tile.softcap is None else tile.logit_scale / tile.softcap
    temperature = tile.temperature
    return {
        "logits": tile.logits,
        "stride": tile.logits.stride(0),
        "width": tile.logits.shape[1],
        "bias": None if tile.bias is None else tile.bias.contiguous(),
        "temperature": temperature.contiguous() if isinstance(temperature, Tensor) else None,
        "outward": float(outward) if isinstance(temperature, Tensor) else outward / temperature,
        "inward": inward,
        "CAPPED": tile.softcap is not None,
    }
