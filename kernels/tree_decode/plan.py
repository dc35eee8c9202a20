"""DecodePlan: the shared segments and paged tails that decoding rows read, and its work lists."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fastrl.kernels._checks import check_dtype, refuse

OP = "tree_decode"
SPLIT = 512
"""Tokens per piece: enough that partial results cost little, few enough to fill a GPU."""
ALIGNED = 64
LAST_SLOT = 2**31 - 1
ROWS = slice(2, 4)  # columns row_start and row_stop of segments and pieces

Ints = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Work:
    """The static inputs of a kernel, on the plan's device."""

    items: Tensor
    """[I, 6] int32: first slot, length, row_start, row_stop, position, rank; one per piece and row tile."""
    trunk_starts: Tensor
    """[R + 1] int32: the partial results of row r's trunk are trunk_starts[r] + rank, root first."""
    prefix_lengths: Tensor
    """[R] int32."""


@dataclass(frozen=True, slots=True, eq=False)
class DecodePlan:
    """Rows over a forest of segments; static while the rows decode and their tails grow.

    Rows are sorted so that those below a segment are contiguous. All rows of a segment have the same tokens
    and pieces above it, so the rank of a piece among a row's partial results is the same for all of them. The
    split of a segment into pieces depends only on its length.

    Every row gets the same number of tail pieces, from the size of the block table. So the grid does not
    change while tails grow: from step to step only tail_lengths and the block table change.
    """

    segments: Ints
    """[n, 4]: first slot in the pool, length, row_start, row_stop; sorted by position."""
    positions: Ints
    """[n] position of each segment's first token."""
    prefix_lengths: Ints
    """[R] length of each row's trunk, which is the position of its tail's first token."""
    block_table: Tensor
    """[R, B] int32, on the device of the pool: first slot of each block of a row's tail.

    It may be written in place between steps (to add a row's next block), since nothing is derived from it.
    Entries past a tail's end are not read.
    """
    block_size: int
    split: int
    pieces: Ints
    """[N, 6]: first slot, length, row_start, row_stop, position, rank; each is a segment or a part of one."""
    trunk_starts: Ints
    """[R + 1]: offsets of the rows' trunk results in the partial results."""
    end_slot: int
    """Number of slots that the pool must have at least."""
    made: dict[int, Work] = field(default_factory=dict, repr=False)
    """Cache of `work`, by tile."""

    @classmethod
    def make(
        cls,
        segments: ArrayLike,
        positions: ArrayLike,
        prefix_lengths: ArrayLike,
        block_table: Tensor,
        *,
        block_size: int,
        split: int = SPLIT,
    ) -> DecodePlan:
        """Return a plan for the R rows of block_table, which is not copied.

        Args:
            segments: [n, 4] integers: first slot, length, row_start, row_stop, in any order; segments without
                rows or tokens are dropped.
            positions: [n] position of each segment's first token.
            prefix_lengths: [R] length of each row's trunk.
            block_table: [R, B] int32.
            block_size: tokens per block of a tail; a block's slots are contiguous.
            split: most tokens per piece.
        Raises:
            ValueError: shapes disagree, or segments, positions and prefix_lengths do not describe a forest.
            TypeError: block_table is not int32.
        """
        prefixes = np.array(prefix_lengths, dtype=np.int32)  # a copy, unlike the block table
        check_dtype(OP, "block_table", block_table, torch.int32)
        if block_table.dim() != 2 or prefixes.shape != block_table.shape[:1]:
            refuse(OP, "block_table", f"shape {(*prefixes.shape, 'B')}", tuple(block_table.shape))
        if block_table.numel() > len(prefixes) and block_table.stride(1) != 1:
            refuse(OP, "block_table", "a contiguous last dimension", f"a stride of {block_table.stride(1)}")
        if block_size < 1 or split < 1:
            refuse(OP, "block_size, split", ">= 1", (block_size, split))
        table, ordered = _by_position(np.asarray(segments), np.asarray(positions), len(prefixes))
        num, size = _splits(table[:, 1], split)
        ranks, counts = _ranks(table, ordered, num, prefixes)
        return cls(
            segments=table,
            positions=ordered,
            prefix_lengths=prefixes,
            block_table=block_table,
            block_size=block_size,
            split=split,
            pieces=_pieces(table, ordered, num, size, ranks),
            trunk_starts=_starts(counts),
            end_slot=int((table[:, 0] + table[:, 1]).max(initial=0)),
        )

    @property
    def num_rows(self) -> int:
        return len(self.prefix_lengths)

    @property
    def max_tail(self) -> int:
        """Longest tail that the block table can hold."""
        return self.block_table.shape[1] * self.block_size

    @property
    def num_tail_pieces(self) -> int:
        return -(-self.max_tail // self.split)

    def keep(self, rows: ArrayLike) -> DecodePlan:
        """Return the plan of some rows, given by rising indices; segments without rows are dropped.

        The block table is copied. Cost: O(pieces log rows).
        """
        kept = np.asarray(rows, dtype=np.int64)
        last = len(kept) - 1
        if (np.diff(kept) <= 0).any() or (last >= 0 and not 0 <= kept[0] <= kept[last] < self.num_rows):
            refuse(OP, "rows", f"rising numbers in [0, {self.num_rows})", kept.tolist())
        segments, with_rows = _among(kept, self.segments)
        index = torch.from_numpy(kept).to(self.block_table.device)
        return replace(
            self,
            segments=segments,
            positions=self.positions[with_rows],
            prefix_lengths=self.prefix_lengths[kept],
            block_table=self.block_table.index_select(0, index),
            pieces=_among(kept, self.pieces)[0],
            trunk_starts=_starts(np.diff(self.trunk_starts)[kept]),
            made={},
        )

    def work(self, tile: int) -> Work:
        """Return the work list for tiles of at most `tile` rows; cached, so that CUDA graphs can reuse it."""
        if tile not in self.made:
            num = -(-(self.pieces[:, 3] - self.pieces[:, 2]) // tile)
            items = np.repeat(self.pieces, num, axis=0)
            items[:, 2] += tile * _counting(num)
            items[:, 3] = np.minimum(items[:, 3], items[:, 2] + tile)
            arrays = (np.ascontiguousarray(items), self.trunk_starts, self.prefix_lengths)
            device = self.block_table.device
            self.made[tile] = Work(*(torch.from_numpy(array).to(device) for array in arrays))
        return self.made[tile]


def _splits(lengths: Ints, split: int) -> tuple[Ints, Ints]:
    """Return (number of pieces, tokens of each piece but the last) of segments, in about equal pieces."""
    size = -(-lengths // np.maximum(1, -(-lengths // split)))
    size = np.minimum(split, -(-size // ALIGNED) * ALIGNED)
    return -(-lengths // size), size


def _by_position(segments: NDArray[Any], positions: NDArray[Any], rows: int) -> tuple[Ints, Ints]:
    """Return the segments with rows and tokens, and their positions, sorted by position."""
    table, starts = segments.astype(np.int64).reshape(-1, 4), positions.astype(np.int64)
    if starts.shape != table.shape[:1]:
        refuse(OP, "positions", f"shape {table.shape[:1]}", starts.shape)
    used = (table[:, 1] > 0) & (table[:, 3] > table[:, 2])
    table, starts = table[used], starts[used]
    slot, length, start, stop = table.T
    wrong = (slot < 0) | (slot + length > LAST_SLOT) | (start < 0) | (stop > rows)
    if wrong.any():
        got = tuple(table[wrong][0].tolist())
        refuse(OP, "segments", f"slots in [0, {LAST_SLOT}) and rows in [0, {rows}]", got)
    order = np.argsort(starts, kind="stable")
    return table[order].astype(np.int32), starts[order].astype(np.int32)


def _ranks(segments: Ints, positions: Ints, num: Ints, prefix_lengths: Ints) -> tuple[Ints, Ints]:
    """Return (pieces above each segment, pieces above each row); checks the forest from its roots down."""
    tokens, above = np.zeros_like(prefix_lengths), np.zeros_like(prefix_lengths)
    ranks = np.zeros(len(segments), dtype=np.int32)
    for s, (slot, length, start, stop) in enumerate(segments.tolist()):
        ranks[s] = above[start]
        if (tokens[start:stop] != positions[s]).any() or (above[start:stop] != ranks[s]).any():
            expected = (
                f"the same {positions[s]} tokens above every row of segment {(slot, length, start, stop)}"
            )
            refuse(OP, "segments", expected, tokens[start:stop].tolist())
        tokens[start:stop] += length
        above[start:stop] += num[s]
    if (tokens != prefix_lengths).any():
        refuse(OP, "prefix_lengths", f"the tokens above each row, {tokens.tolist()}", prefix_lengths.tolist())
    return ranks, above


def _pieces(segments: Ints, positions: Ints, num: Ints, size: Ints, ranks: Ints) -> Ints:
    index = _counting(num)
    tables = (segments, size[:, None], positions[:, None], ranks[:, None])
    whole, step, position, rank = (np.repeat(table, num, axis=0) for table in tables)
    begin = index[:, None] * step
    length = np.minimum(step, whole[:, 1:2] - begin)
    slots, rows = whole[:, :1] + begin, whole[:, ROWS]
    return np.concatenate((slots, length, rows, position + begin, rank + index[:, None]), 1, dtype=np.int32)


def _counting(num: Ints) -> Ints:
    """Return 0 .. num[i] - 1 for each i, concatenated."""
    ends = np.cumsum(num, dtype=np.int32)
    return np.arange(num.sum(), dtype=np.int32) - np.repeat(ends - num, num)


def _starts(counts: Ints) -> Ints:
    return np.concatenate(([0], np.cumsum(counts)), dtype=np.int32)


def _among(rows: NDArray[np.int64], table: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """Return (the table's lines with some of these rows, with row ranges renumbered; mask of these lines)."""
    ranges = np.searchsorted(rows, table[:, ROWS])
    used = ranges[:, 0] < ranges[:, 1]
    moved = table[used]
    moved[:, ROWS] = ranges[used]
    return moved, used
