"""Sums over the bits of each weight: they say whether two models hold the same, without moving either."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

WeightSum = tuple[int, int]
"""Sums of all words of a tensor, and of every other one: a lost, swapped or rounded tensor shows."""
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def weight_sums(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, WeightSum]:
    """Return the sums of each named tensor. Reads every weight once; copies to the host once.

    A zero counts without its sign: a packed weight that is read back through its kernel has lost it.
    """
    names, sums = [], []
    for name, tensor in tensors:
        unsigned_zero = (tensor.detach() + 0).contiguous()
        words = unsigned_zero.view(-1).view(_WORDS[unsigned_zero.element_size()])
        names.append(name)
        sums.append(torch.stack([words.sum(dtype=torch.int64), words[::2].sum(dtype=torch.int64)]))
    pairs = torch.stack(sums).tolist() if sums else []
    return {name: (whole, half) for name, (whole, half) in zip(names, pairs, strict=True)}
