"""Tree attention as dense pieces, such that every visible pair of tokens is in exactly one piece.

A square is causal attention along a path: a segment with the short segments above it, whose rows are dropped.
A trunk is a long segment that all tokens below it see completely, without a mask. The softmax of a token is
merged from its square and its trunks by their log-sum-exps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

Array = np.ndarray
# a row of a piece (reading its query, merging its result) costs about as much as this many keys
ROW = 32
WASTE = 8  # squares of one call are padded to the longest one, by at most an eighth of its length


@dataclass(frozen=True, slots=True)
class Squares:
    """S paths of at most L tokens: one call of causal attention."""

    shape: tuple[int, int]
    """(S, L)."""
    slots: slice | Tensor
    """[S*L] slot of each position; at padding any slot of the same path."""
    dropped: Tensor | None
    """[S*L] bool, positions whose results are dropped: padding, and rows of the segments above."""
    above: Tensor | None
    """Positions of the tokens in segments above, which are only keys."""
    above_slots: Tensor | None
    """Slots of these tokens."""

    def take(self, x: Tensor) -> Tensor:
        """Gather [M, ...] -> [S, L, ...]."""
        taken = x[self.slots] if isinstance(self.slots, slice) else x.index_select(0, self.slots)
        return taken.view(*self.shape, *x.shape[1:])


@dataclass(frozen=True, slots=True)
class Trunk:
    """Keys that all rows below see, unless a window hides them."""

    keys: slice | Tensor
    """Slots of the keys."""
    key_depths: Array
    """Depths of the keys, consecutive."""
    first_row: int
    """First slot of the rows below, which are consecutive slots."""
    row_depths: Array
    """Depths of the rows below."""

    def rows(self, window: int | None) -> tuple[slice | Tensor, Array]:
        """Return (slots, depths) of the rows that see at least one key."""
        near = slice(self.first_row, self.first_row + len(self.row_depths))
        if window is None or self.row_depths.max() - self.key_depths[-1] < window:
            return near, self.row_depths
        seeing = np.flatnonzero(self.row_depths - self.key_depths[-1] < window)
        return torch.from_numpy(self.first_row + seeing), self.row_depths[seeing]


@dataclass(frozen=True, slots=True)
class Pieces:
    """The pieces of a layout."""

    squares: list[Squares]
    order: Tensor | None
    """[M] position of each slot's result in the concatenated squares; None: the same order."""
    trunks: list[Trunk]


_known: WeakIdKeyDictionary = WeakIdKeyDictionary()


def pieces_of(segments: Tensor, device: torch.device) -> Pieces:
    """Return the pieces of a layout, cached per layout and device."""
    if segments not in _known:
        _known[segments] = {}
    found: dict[torch.device, Pieces] = _known[segments]
    if device not in found:
        found[device] = _cut(segments.numpy(), device)
    return found[device]


def _cut(segments: Array, device: torch.device) -> Pieces:
    starts, stops, parents, ends = segments.T
    lengths = stops - starts
    number_below = np.searchsorted(starts, ends) - np.arange(len(segments)) - 1
    depths = np.zeros(int(stops[-1]), dtype=np.int64)
    above: list[list[int]] = []
    below_a_trunk = np.zeros(len(segments), dtype=bool)
    trunks = []
    for s, parent in enumerate(parents):
        chain = [] if parent < 0 or below_a_trunk[parent] else [*above[parent], int(parent)]
        above.append(chain)
        first_depth = 0 if parent < 0 else depths[stops[parent] - 1] + 1
        depths[starts[s] : stops[s]] = first_depth + np.arange(lengths[s])
        num_keys = int(lengths[[*chain, s]].sum())
        # a trunk costs a merge of every row below; without it, every square below repeats these keys as rows
        repeated = number_below[s] * num_keys * (num_keys / 2 + ROW)
        if repeated > ROW * (ends[s] - stops[s]):
            below_a_trunk[s] = True
            trunks.append((s, chain))
    return Pieces(
        *_squares(starts, stops, above, device),
        trunks=[
            Trunk(
                keys=_as_index(keys := _slots(starts, stops, [*chain, s]), device),
                key_depths=depths[keys],
                first_row=int(stops[s]),
                row_depths=depths[stops[s] : ends[s]],
            )
            for s, chain in trunks
        ],
    )


def _slots(starts: Array, stops: Array, path: Sequence[int]) -> Array:
    return np.concatenate([np.arange(starts[s], stops[s]) for s in path])


def _as_index(slots: Array, device: torch.device) -> slice | Tensor:
    """Return the slots as a slice if they are consecutive, otherwise as a tensor."""
    if slots[-1] - slots[0] == len(slots) - 1 and (np.diff(slots) == 1).all():
        return slice(int(slots[0]), int(slots[-1]) + 1)
    return torch.from_numpy(slots).to(device)


def _squares(
    starts: Array, stops: Array, above: list[list[int]], device: torch.device
) -> tuple[list[Squares], Tensor | None]:
    """Return one square per segment, grouped by similar length, and the order of the slots' results."""
    paths = [_slots(starts, stops, [*chain, s]) for s, chain in enumerate(above)]
    own = stops - starts
    order = np.empty(int(stops[-1]), dtype=np.int64)
    squares, offset = [], 0
    for members in _alike([len(path) for path in paths]):
        length = len(paths[members[0]])
        slots = np.empty((len(members), length), dtype=np.int64)
        kept, read = np.zeros((2, len(members), length), dtype=bool)
        for row, s in enumerate(members):
            path = paths[s]
            slots[row] = path[-1]  # padding repeats a slot of the same path
            slots[row, : len(path)], read[row, : len(path)] = path, True
            kept[row, len(path) - own[s] : len(path)] = True
        order[slots[kept]] = offset + np.flatnonzero(kept)
        offset += kept.size
        squares.append(_square(slots, kept, read, device))
    identity = np.array_equal(order, np.arange(offset))
    return squares, None if identity else torch.from_numpy(order).to(device)


def _square(slots: Array, kept: Array, read: Array, device: torch.device) -> Squares:
    shared = np.flatnonzero(read & ~kept)

    def move(array: Array, wanted: bool) -> Tensor | None:
        return torch.from_numpy(array).to(device) if wanted else None

    return Squares(
        shape=(slots.shape[0], slots.shape[1]),
        slots=_as_index(slots.ravel(), device),
        dropped=move(~kept.ravel(), not kept.all()),
        above=move(shared, len(shared) > 0),
        above_slots=move(slots.ravel()[shared], len(shared) > 0),
    )


def _alike(lengths: list[int]) -> list[list[int]]:
    """Group indices by similar length, the longest of a group first."""
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        longest = lengths[groups[-1][0]] if groups else 0
        if not groups or longest - lengths[index] > max(WASTE, longest // WASTE):
            groups.append([])
        groups[-1].append(index)
    return groups
