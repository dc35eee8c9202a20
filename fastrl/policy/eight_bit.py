"""torchao's AdamW with 8-bit moments: what it needs, and its moments as plain tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from math import prod
from typing import Any

import torch
from torch import Tensor

from fastrl.config import TrainConfig, refuse

BLOCK = 256
"""Values that share a scale."""
SMALLEST = 4096
"""Tensors with fewer values, and those that are no whole blocks, keep float32 moments."""
CODES, SCALE = ".codes", ".scale"
SIGNED = {"exp_avg": True, "exp_avg_sq": False}


def check_torchao(config: TrainConfig) -> None:
    """Raise ValueError if the configuration has 8-bit moments and torchao is not installed."""
    if config.optim == "adamw_torch_8bit" and find_spec("torchao") is None:
        expected = "adamw_torch_fused if torchao is not installed (pip install 'torchao>=0.18')"
        refuse("train", "optim", expected, config.optim)


def adamw_8bit(groups: list[dict[str, Any]], config: TrainConfig) -> torch.optim.Optimizer:
    """Return torchao's AdamW8bit; it compiles a function per shape of weight at its first step."""
    check_torchao(config)
    from torchao.optim import AdamW8bit

    optimizer: torch.optim.Optimizer = AdamW8bit(
        groups,
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        block_size=BLOCK,
    )
    return optimizer


def state_bytes(shapes: Sequence[Sequence[int]]) -> int:
    """Return the bytes of the state: 2 codes per value and 2 float32 scales per block, or 2 float32 moments;
    and a float32 step per tensor."""
    total = 4 * len(shapes)
    for size in map(prod, shapes):
        quantised = size >= SMALLEST and size % BLOCK == 0
        total += 2 * (size + 4 * (size // BLOCK)) if quantised else 8 * size
    return total


def pieces(moment: Tensor) -> dict[str, Tensor]:
    """Return the tensors that make up a moment, by their suffix; a moment in float32 has the suffix ""."""
    codes: Tensor | None = getattr(moment, "codes", None)
    scale: Tensor | None = getattr(moment, "scale", None)
    if codes is None or scale is None:
        return {"": moment}
    return {CODES: codes, SCALE: scale}


def from_pieces(name: str, parts: Mapping[str, Tensor]) -> Tensor:
    """Return the 8-bit moment of these pieces, the inverse of `pieces`.

    Args:
        name: exp_avg, or exp_avg_sq, which has no signs.
    """
    from torchao.optim.subclass_8bit import OptimState8bit

    codes, scale = parts[CODES], parts[SCALE]
    block = codes.numel() // scale.numel()
    moment: Tensor = OptimState8bit.zeros(codes.shape, SIGNED[name], block, codes.device, dtype=torch.float32)
    for own, saved in zip(pieces(moment).values(), (codes, scale), strict=True):
        own.copy_(saved)
    return moment
