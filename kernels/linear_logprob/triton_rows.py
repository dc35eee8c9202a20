"""Row math in Triton: scores and gradients of tiles of logits, which each kernel reads once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from fastrl.kernels._rows import RowScores, Tile
from fastrl.kernels.linear_logprob.triton_kernels import floor_kernel, gradient_kernel, score_kernel

VECTOR = 8  # elements; rows with lengths that are multiples of it are read with 16- or 32-byte loads


@dataclass(frozen=True, slots=True)
class Blocks:
    """Block size and launch options of a kernel; they do not depend on shapes, so nothing is recompiled."""

    columns: int
    num_warps: int
    maxnreg: int | None = None

    def options(self, *lengths: int) -> dict[str, Any]:
        return {
            "ALIGNED": all(length % VECTOR == 0 for length in lengths),
            "BLOCK": self.columns,
            "num_warps": self.num_warps,
            "maxnreg": self.maxnreg,
            "enable_fp_fusion": False,  # so that all kernels compute bitwise equal z
        }


# 16 columns per thread amortise the overhead; registers allow 4 rows per multiprocessor
SCORE = Blocks(columns=4096, num_warps=8, maxnreg=64)
GRADIENT = Blocks(columns=4096, num_warps=8)
FLOORS = Blocks(columns=4096, num_warps=16)  # each step of the search reads the whole row


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
    """Return the arguments of z = outward * (raw + bias), or outward * tanh(inward * (raw + bias)).

    outward includes the temperature if that is a number.
    """
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
