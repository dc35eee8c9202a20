"""Sequences laid end to end: no padding reaches the model, and the head sees trained tokens only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class TrainSequence:
    """A sequence of tokens and which of them the loss speaks of; the first token is never predicted."""

    token_ids: Sequence[int]
    loss_mask: Sequence[bool]

    def __post_init__(self) -> None:
        if len(self.token_ids) != len(self.loss_mask):
            raise ValueError(
                f"[pack] loss_mask: expected {len(self.token_ids)} entries, one a token, "
                f"got {len(self.loss_mask)}"
            )

    @property
    def num_loss_tokens(self) -> int:
        return sum(self.loss_mask[1:])


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """N input tokens of S sequences; T of their hidden states predict a trained token."""

    input_ids: Tensor
    """[N] int64."""
    position_ids: Tensor
    """[N] int64, from 0 in each sequence."""
    cu_seqlens: Tensor
    """[S+1] int32, where each sequence starts among the N."""
    max_seqlen: int
    rows: Tensor
    """[T] int64, which of the N hidden states predict."""
    ids: Tensor
    """[T] int64, the token each row predicts."""
    row_cu_seqlens: Tensor
    """[S+1] int32, where each sequence starts among the T."""

    @property
    def num_tokens(self) -> int:
        return self.input_ids.numel()


def pack(sequences: Sequence[TrainSequence], device: torch.device) -> PackedBatch:
    """Lay sequences end to end. A sequence's last token is only ever predicted, so it is not an input."""
    lengths = [len(sequence.token_ids) - 1 for sequence in sequences]
    if min(lengths, default=1) < 1:
        raise ValueError("[pack] token_ids: expected at least 2 tokens a sequence (one to predict from)")
    inputs = np.concatenate([np.asarray(s.token_ids[:-1], dtype=np.int64) for s in sequences])
    targets = np.concatenate([np.asarray(s.token_ids[1:], dtype=np.int64) for s in sequences])
    trained = np.concatenate([np.asarray(s.loss_mask[1:], dtype=bool) for s in sequences])
    positions = np.concatenate([np.arange(length, dtype=np.int64) for length in lengths])
    rows = np.flatnonzero(trained)

    def move(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(device, non_blocking=True)

    return PackedBatch(
        input_ids=move(inputs),
        position_ids=move(positions),
        cu_seqlens=move(cumulative(lengths)),
        max_seqlen=max(lengths),
        rows=move(rows),
        ids=move(targets[rows]),
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
