"""Packing of sequences without padding, optionally with shared prefixes; the head sees only loss tokens."""

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
    """N input tokens of S sequences, of which T hidden states predict a loss token."""

    input_ids: Tensor
    """[N] int64."""
    position_ids: Tensor
    """[N] int64, from 0 in each sequence."""
    tree: TreeLayout
    """Prefix tree of the N tokens, which defines attention."""
    cu_seqlens: Tensor | None
    """[S+1] int32, offsets of the sequences in the N tokens; None if sequences share tokens."""
    max_seqlen: int
    rows: Tensor
    """[T] int64, indices in N of the hidden states that predict; a shared one may occur several times."""
    ids: Tensor
    """[T] int64, the tokens predicted."""
    row_cu_seqlens: Tensor
    """[S+1] int32, offsets of the sequences in the T rows."""

    @property
    def num_tokens(self) -> int:
        return self.input_ids.numel()


def pack(
    sequences: Sequence[TrainSequence], device: torch.device, share_prefixes: bool = False
) -> PackedBatch:
    """Concatenate sequences, or with share_prefixes merge their common prefixes.

    A sequence's last token is only predicted, so it is not an input.

    Raises: ValueError: a sequence has fewer than 2 tokens.
    """
    lengths = [len(sequence.token_ids) - 1 for sequence in sequences]
    if min(lengths, default=1) < 1:
        raise ValueError("[pack] token_ids: expected at least 2 tokens per sequence (one to predict from)")
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
    """Return [S+1] int32: 0, then the cumulative sum of lengths."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def microbatches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group indices into micro-batches of at most `budget` tokens, with similar lengths together.

    A sequence longer than the budget is a micro-batch of its own.
    """
    batches: list[list[int]] = []
    room = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if not batches or lengths[index] > room:
            batches.append([])
            room = budget
        batches[-1].append(index)
        room -= lengths[index]
    return batches


def shared_microbatches(
    tokens: Sequence[Sequence[int]], groups: Sequence[int], budget: int
) -> list[list[int]]:
    """Group indices into micro-batches of at most `budget` tokens, where shared prefixes count once.

    The sequences of a group stay together if they fit into the budget; otherwise they are split in
    lexicographic order. A sequence longer than the budget is a micro-batch of its own.

    Args:
        tokens: the tokens of each sequence.
        groups: the group of each sequence.
    """
    members: dict[int, list[int]] = {}
    for index in sorted(range(len(tokens)), key=lambda i: (tokens[i], i)):
        members.setdefault(groups[index], []).append(index)
    arrays = [np.asarray(ids, dtype=np.int64) for ids in tokens]
    batches: list[list[int]] = []
    room, last = 0, None
    for group in members.values():
        sizes = [new_tokens(arrays, before, i) for before, i in zip([None, *group], group, strict=False)]
        joining = new_tokens(arrays, last, group[0]) + sum(sizes[1:])
        if joining > room and sum(sizes) <= budget:
            room = 0  # the whole group fits into the next micro-batch
        for index in group:
            added = new_tokens(arrays, last, index)
            if not batches or added > room:
                batches.append([])
                room, added = budget, len(arrays[index])
            batches[-1].append(index)
            room, last = room - added, index
    return batches


def new_tokens(arrays: Sequence[np.ndarray], before: int | None, index: int) -> int:
    """Return how many tokens of a sequence follow its common prefix with the sequence `before`."""
    if before is None:
        return len(arrays[index])
    length = min(len(arrays[before]), len(arrays[index]))
    differing = np.flatnonzero(arrays[before][:length] != arrays[index][:length])
    return len(arrays[index]) - (int(differing[0]) if len(differing) else length)
