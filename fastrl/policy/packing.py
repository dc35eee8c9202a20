"""Sequences laid end to end, or merged where they begin alike: no padding reaches the model, and the head
sees trained tokens only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastrl.ops import TreeLayout, prefix_tree
from fastrl.types import TrainSequence


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """N input tokens of S sequences; T hidden states predict a trained token."""

    input_ids: Tensor
    """[N] int64."""
    position_ids: Tensor
    """[N] int64, from 0 in each sequence."""
    tree: TreeLayout
    """Which of the N sees which."""
    cu_seqlens: Tensor | None
    """[S+1] int32, where each sequence starts among the N; None where sequences share tokens."""
    max_seqlen: int
    rows: Tensor
    """[T] int64, which of the N hidden states predict; a shared one may stand there several times."""
    ids: Tensor
    """[T] int64, the token each row predicts."""
    row_cu_seqlens: Tensor
    """[S+1] int32, where each sequence starts among the T."""

    @property
    def num_tokens(self) -> int:
        return self.input_ids.numel()


def pack(
    sequences: Sequence[TrainSequence], device: torch.device, share_prefixes: bool = False
) -> PackedBatch:
    """Lay sequences end to end, or with share_prefixes merge what they begin with alike. A sequence's last
    token is only ever predicted, so it is not an input."""
    lengths = [len(sequence.token_ids) - 1 for sequence in sequences]
    if min(lengths, default=1) < 1:
        raise ValueError("[pack] token_ids: expected at least 2 tokens a sequence (one to predict from)")
    inputs = np.concatenate([np.asarray(s.token_ids[:-1], dtype=np.int64) for s in sequences])
    targets = np.concatenate([np.asarray(s.token_ids[1:], dtype=np.int64) for s in sequences])
    trained = np.concatenate([np.asarray(s.loss_mask[1:], dtype=bool) for s in sequences])
    predicting = np.flatnonzero(trained)
    bounds = cumulative(lengths)

    def move(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(device, non_blocking=True)

    if share_prefixes:
        forest = prefix_tree((inputs, bounds))
        tree, tokens, rows = TreeLayout.of(forest, device), forest.tokens, forest.slots[predicting]
    else:
        tree, tokens, rows = TreeLayout.packed(bounds, device), inputs, predicting
    return PackedBatch(
        input_ids=move(tokens),
        position_ids=move(tree.host_depths),
        tree=tree,
        cu_seqlens=None if share_prefixes else move(bounds),
        max_seqlen=max(lengths),
        rows=move(rows),
        ids=move(targets[predicting]),
        row_cu_seqlens=move(cumulative([sequence.num_loss_tokens for sequence in sequences])),
    )


def cumulative(lengths: Sequence[int]) -> np.ndarray:
    """[S+1] int32: 0, then the running sum."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def microbatches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices grouped so that a group's lengths sum to at most `budget`, neighbours in length together.

    A sequence longer than the budget gets a group of its own: it can't be split.
    """
    groups: list[list[int]] = []
    room = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if not groups or lengths[index] > room:
            groups.append([])
            room = budget
        groups[-1].append(index)
        room -= lengths[index]
    return groups


def shared_microbatches(
    tokens: Sequence[Sequence[int]], groups: Sequence[int], budget: int
) -> list[list[int]]:
    """Indices grouped so that the distinct prefixes of a group, its tokens once merged, are at most `budget`.

    Sequences of a group stay together where the budget holds them all, and are split in the order of their
    tokens where it does not. A sequence longer than the budget gets a micro-batch of its own.

    Args:
        tokens: the tokens of each sequence.
        groups: which sequences to keep together, for each the number of its group.
    """
    members: dict[int, list[int]] = {}
    for index in sorted(range(len(tokens)), key=lambda i: (tokens[i], i)):
        members.setdefault(groups[index], []).append(index)
    arrays = [np.asarray(each, dtype=np.int64) for each in tokens]
    batches: list[list[int]] = []
    room, last = 0, None
    for group in members.values():
        alone = [new_tokens(arrays, before, i) for before, i in zip([None, *group], group, strict=False)]
        joining = new_tokens(arrays, last, group[0]) + sum(alone[1:])
        if joining > room and sum(alone) <= budget:
            room = 0  # the group is whole in the next one
        for index in group:
            added = new_tokens(arrays, last, index)
            if not batches or added > room:
                batches.append([])
                room, added = budget, len(arrays[index])
            batches[-1].append(index)
            room, last = room - added, index
    return batches


def new_tokens(arrays: Sequence[np.ndarray], before: int | None, index: int) -> int:
    """Tokens that a sequence adds to one sorted before it: all but those that both begin with."""
    if before is None:
        return len(arrays[index])
    length = min(len(arrays[before]), len(arrays[index]))
    differing = np.flatnonzero(arrays[before][:length] != arrays[index][:length])
    return len(arrays[index]) - (int(differing[0]) if len(differing) else length)
