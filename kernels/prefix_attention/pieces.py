"""Tree attention cut into dense pieces, so that every visible pair of tokens lies in exactly one of them.

Squares are causal attention along a path: a segment with the short segments above it, whose own rows are
dropped. Trunks are long segments, which all tokens below them see whole: no mask, no gathering. What a
token gets from its square and its trunks is one softmax in parts, joined by their log-sum-exps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

Array = np.ndarray
# A row of a piece (its query read, its result joined with others) costs about as much as so many keys.
ROW = 32
WASTE = 8  # squares that are one call are filled up to the largest one's length, by an eighth of it at most


@dataclass(frozen=True, slots=True)
class Squares:
    """S paths of at most L tokens, one call of causal attention."""

    shape: tuple[int, int]
    """(S, L)."""
    places: slice | Tensor
    """The slots of S*L places; a vacant place names any."""
    dropped: Tensor | None
    """[S*L] bool, places whose results are not wanted: vacant ones, and rows of the segments above."""
    above: Tensor | None
    """The places whose tokens are in segments above, as keys alone."""
    above_slots: Tensor | None
    """Their slots."""

    def take(self, x: Tensor) -> Tensor:
        """[M, ...] -> [S, L, ...]"""
        taken = x[self.places] if isinstance(self.places, slice) else x.index_select(0, self.places)
        return taken.view(*self.shape, *x.shape[1:])


@dataclass(frozen=True, slots=True)
class Trunk:
    """Keys that all of the rows below see whole, but for a window."""

    keys: slice | Tensor
    key_depths: Array
    """Consecutive."""
    first_row: int
    row_depths: Array
    """Of the rows below, which are consecutive slots."""

    def rows(self, window: int | None) -> tuple[slice | Tensor, Array]:
        """(the rows that see a key at all, their depths)"""
        near = slice(self.first_row, self.first_row + len(self.row_depths))
        if window is None or self.row_depths.max() - self.key_depths[-1] < window:
            return near, self.row_depths
        seeing = np.flatnonzero(self.row_depths - self.key_depths[-1] < window)
        return torch.from_numpy(self.first_row + seeing), self.row_depths[seeing]


@dataclass(frozen=True, slots=True)
class Pieces:
    squares: list[Squares]
    order: Tensor | None
    """[M] where each slot's result stands among the places of all squares; None: as they are."""
    trunks: list[Trunk]


_known: WeakIdKeyDictionary = WeakIdKeyDictionary()


def pieces_of(segments: Tensor, device: torch.device) -> Pieces:
    """The pieces of a layout, made once for each."""
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
        # A trunk costs a join of every row below; without one, every square below repeats these keys as rows.
        again = number_below[s] * num_keys * (num_keys / 2 + ROW)
        if again > ROW * (ends[s] - stops[s]):
            below_a_trunk[s] = True
            trunks.append((s, chain))
    return Pieces(
        *_squares(starts, stops, above, device),
        trunks=[
            Trunk(
                keys=_places(keys := _slots(starts, stops, [*chain, s]), device),
                key_depths=depths[keys],
                first_row=int(stops[s]),
                row_depths=depths[stops[s] : ends[s]],
            )
            for s, chain in trunks
        ],
    )


def _slots(starts: Array, stops: Array, path: Sequence[int]) -> Array:
    return np.concatenate([np.arange(starts[s], stops[s]) for s in path])


def _places(slots: Array, device: torch.device) -> slice | Tensor:
    if slots[-1] - slots[0] == len(slots) - 1 and (np.diff(slots) == 1).all():
        return slice(int(slots[0]), int(slots[-1]) + 1)
    return torch.from_numpy(slots).to(device)


def _squares(
    starts: Array, stops: Array, above: list[list[int]], device: torch.device
) -> tuple[list[Squares], Tensor | None]:
    """One square a segment, those of about a length together; and where each slot's result is."""
    paths = [_slots(starts, stops, [*chain, s]) for s, chain in enumerate(above)]
    own = stops - starts
    order = np.empty(int(stops[-1]), dtype=np.int64)
    squares, offset = [], 0
    for members in _alike([len(path) for path in paths]):
        length = len(paths[members[0]])
        places = np.empty((len(members), length), dtype=np.int64)
        kept, read = np.zeros((2, len(members), length), dtype=bool)
        for row, s in enumerate(members):
            path = paths[s]
            places[row] = path[-1]  # what a vacant place holds must be of the same path
            places[row, : len(path)], read[row, : len(path)] = path, True
            kept[row, len(path) - own[s] : len(path)] = True
        order[places[kept]] = offset + np.flatnonzero(kept)
        offset += kept.size
        squares.append(_square(places, kept, read, device))
    identity = np.array_equal(order, np.arange(offset))
    return squares, None if identity else torch.from_numpy(order).to(device)


def _square(places: Array, kept: Array, read: Array, device: torch.device) -> Squares:
    shared = np.flatnonzero(read & ~kept)

    def move(array: Array, wanted: bool) -> Tensor | None:
        return torch.from_numpy(array).to(device) if wanted else None

    return Squares(
        shape=(places.shape[0], places.shape[1]),
        places=_places(places.ravel(), device),
        dropped=move(~kept.ravel(), not kept.all()),
        above=move(shared, len(shared) > 0),
        above_slots=move(places.ravel()[shared], len(shared) > 0),
    )


def _alike(lengths: list[int]) -> list[list[int]]:
    """Indices in groups of about equal length, the longest of a group first."""
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        longest = lengths[groups[-1][0]] if groups else 0
        if not groups or longest - lengths[index] > max(WASTE, longest // WASTE):
            groups.append([])
        groups[-1].append(index)
    return groups
