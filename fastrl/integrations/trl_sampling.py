"""Edits TRL's generation batches: replaces groups without signal, keeps rows of a prompt together."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastrl.runtime.seeding import seed_of

Batch = dict[str, Any]


def groups_with_signal(batch: Mapping[str, Tensor], group_size: int) -> Tensor:
    """Return [rows / group_size] bool, true if a group's rewards differ; groups are consecutive rows."""
    return (batch["advantages"].view(-1, group_size) != 0).any(1)


def rows_of(groups: Tensor, group_size: int) -> Tensor:
    """Return the indices of the selected groups' rows."""
    places = torch.arange(group_size, device=groups.device)
    return (groups.nonzero() * group_size + places).flatten()


def take(batch: Batch, rows: Tensor) -> Batch:
    """Select rows of all tensors of a batch; scalars stay."""
    return {
        name: value[rows] if isinstance(value, Tensor) and value.dim() else value
        for name, value in batch.items()
    }


def merge(batches: Sequence[Batch], pad_token_id: int) -> Batch:
    """Concatenate batches; prompts are padded on the left, everything else on the right."""
    merged: Batch = {}
    for name, first in batches[0].items():
        values = [batch[name] for batch in batches]
        if not isinstance(first, Tensor) or not first.dim():
            merged[name] = first
        elif first.dim() == 1:
            merged[name] = torch.cat(values)
        else:
            fill = pad_token_id if name.endswith("_ids") else int(name == "tool_mask")
            width = max(value.shape[1] for value in values)
            left = name.startswith("prompt")
            merged[name] = torch.cat([padded(tensor, width, fill, left) for tensor in values])
    return merged


def padded(values: Tensor, width: int, fill: int, left: bool) -> Tensor:
    """Pad [B, n] to [B, width]."""
    missing = width - values.shape[1]
    return F.pad(values, (missing, 0) if left else (0, missing), value=fill)


def draw(num_rows: int, count: int, *place: int | str) -> list[int]:
    """Draw `count` dataset rows, without repetition if there are enough; depends only on `place`."""
    chance = random.Random(seed_of(*place))
    if count <= num_rows:
        return chance.sample(range(num_rows), count)
    return chance.choices(range(num_rows), k=count)


def regroup(batches: Sequence[Batch], pad_token_id: int) -> list[Batch]:
    """Redistribute the rows over as many batches so that rows of a prompt are consecutive.

    Prompts keep the order of their first rows.
    """
    whole = merge(batches, pad_token_id)
    first: dict[tuple[int, ...], int] = {}
    kept = zip(whole["prompt_ids"].tolist(), whole["prompt_mask"].tolist(), strict=True)
    prompts = [tuple(i for i, there in zip(ids, seen, strict=True) if there) for ids, seen in kept]
    ranks = [first.setdefault(prompt, len(first)) for prompt in prompts]
    order = sorted(range(len(ranks)), key=lambda row: (ranks[row], row))
    device, size = whole["prompt_ids"].device, len(ranks) // len(batches)
    return [
        take(whole, torch.tensor(order[start : start + size], device=device))
        for start in range(0, len(order), size)
    ]
