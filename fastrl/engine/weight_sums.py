"""Checksums of weights, to compare the weights of two models without copying them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

WeightSum = tuple[int, int]
"""Sum of a tensor's bits as integers, and of every other element; changes if values are lost or swapped."""
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def weight_sums(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, WeightSum]:
    """Return the checksums of each named tensor. Reads every weight once; one host sync.

    -0 counts as 0, since weights that vLLM has packed lose the sign when they are read back.
    """
    names, sums = [], []
    for name, tensor in tensors:
        unsigned_zero = (tensor.detach() + 0).contiguous()
        words = unsigned_zero.view(-1).view(_WORDS[unsigned_zero.element_size()])
        names.append(name)
        sums.append(torch.stack([words.sum(dtype=torch.int64), words[::2].sum(dtype=torch.int64)]))
    pairs = torch.stack(sums).tolist() if sums else []
    return {name: (whole, half) for name, (whole, half) in zip(names, pairs, strict=True)}
