"""Definition of tree_decode: each row gathers its slots, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from fastrl.kernels.tree_decode.plan import DecodePlan


def tree_decode_reference(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    plan: DecodePlan,
    tail_lengths: Tensor,
    scaling: float,
    softcap: float | None,
    window: int | None,
) -> Tensor:
    group = query.shape[1] // keys.shape[1]
    out = query.new_empty(*query.shape[:2], values.shape[2])
    for row, length in enumerate(tail_lengths.tolist()):
        # positions are consecutive up to the query's own, so a window is a number of last slots
        slots = torch.tensor(row_slots(plan, row, length)[-(window or 0) :], device=keys.device)
        own_keys = keys[slots].double().repeat_interleave(group, 1)
        scores = scaling * torch.einsum("hk,lhk->hl", query[row].double(), own_keys)
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        own_values = values[slots].double().repeat_interleave(group, 1)
        out[row] = torch.einsum("hl,lhv->hv", scores.softmax(-1), own_values).to(out.dtype)
    return out


def row_slots(plan: DecodePlan, row: int, tail_length: int) -> list[int]:
    """Return the slots of all tokens that a row sees, root first."""
    slots: list[int] = []
    for slot, length, start, stop in plan.segments.tolist():
        if start <= row < stop:
            slots += range(slot, slot + length)
    blocks = plan.block_table[row].tolist()
    for token in range(tail_length):
        slots.append(blocks[token // plan.block_size] + token % plan.block_size)
    return slots
