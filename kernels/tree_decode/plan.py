"""What decoding rows read, segments that several share and own paged tails, and the work made from it."""

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
"""Tokens of a piece: enough that its partial result costs little, few enough to fill a GPU."""
ALIGNED = 64
LAST_SLOT = 2**31 - 1
ROWS = slice(2, 4)  # columns row_start and row_stop of segments and pieces

Ints = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Work:
    """Everything static that a kernel reads, on the plan's device."""

    items: Tensor
    """[I, 6] int32: first slot, length, row_start, row_stop, position, rank; pieces x tiles of their rows."""
    trunk_starts: Tensor
    """[R + 1] int32: the partial results of row r's trunk are trunk_starts[r] + rank, root first."""
    prefix_lengths: Tensor
    """[R] int32."""


@dataclass(frozen=True, slots=True, eq=False)
class DecodePlan:
    """Rows over a forest of segments; static while they decode, whatever the lengths of their tails.

    Rows are sorted so that those below a segment are contiguous. A segment's rows see all of it, so they all
    have the same tokens, and the same pieces, above it: the rank of a piece among the partial results of a
    row is the same for each row. Where a segment is split depends on its length alone.

    One number of tail pieces is planned for every row, by the size of the block table. So a plan's grid does
    not change while tails grow, and nothing but tail_lengths and the block table changes from step to step.
    """

    segments: Ints
    """[n, 4]: first slot in the pool, length, row_start, row_stop; in the order of their positions."""
    positions: Ints
    """[n] position of each segment's first token."""
    prefix_lengths: Ints
    """[R] tokens of all segments above each row: the position of its tail's first token."""
    block_table: Tensor
    """[R, B] int32, on the device of the pool: first slot of each block of a row's tail.

    It may be written in place between steps (the slot of a row's next block); nothing is derived from it.
    Entries past a tail's end are not read.
    """
    block_size: int
    split: int
    pieces: Ints
    """[N, 6]: first slot, length, row_start, row_stop, position, rank; a segment or a part of one."""
    trunk_starts: Ints
    """[R + 1]: partial results of the rows' trunks, rows end to end."""
    end_slot: int
    """Slots that the pool must have at least."""
    made: dict[int, Work] = field(default_factory=dict, repr=False)
    """Work by the most rows of a tile."""

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
        """A plan for the R rows of block_table, which is held, not copied.

        Args:
            segments: [n, 4] integers: first slot, length, row_start, row_stop, in any order; one without
                rows or tokens is left out.
            positions: [n] position of each segment's first token.
            prefix_lengths: [R] tokens above each row.
            block_table: [R, B] int32.
            block_size: tokens of a block of a tail; its slots are contiguous.
            split: most tokens of a piece.
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
        table, where = _by_position(np.asarray(segments), np.asarray(positions), len(prefixes))
        num, size = _splits(table[:, 1], split)
        ranks, counts = _ranks(table, where, num, prefixes)
        return cls(
            segments=table,
            positions=where,
            prefix_lengths=prefixes,
            block_table=block_table,
            block_size=block_size,
            split=split,
            pieces=_pieces(table, where, num, size, ranks),
            trunk_starts=_starts(counts),
            end_slot=int((table[:, 0] + table[:, 1]).max(initial=0)),
        )

    @property
    def num_rows(self) -> int:
        return len(self.prefix_lengths)

    @property
    def max_tail(self) -> int:
        """Tokens that the block table has room for."""
        return self.block_table.shape[1] * self.block_size

    @property
    def num_tail_pieces(self) -> int:
        return -(-self.max_tail // self.split)

    def keep(self, rows: ArrayLike) -> DecodePlan:
        """The plan of these rows alone, given by rising numbers; segments without rows leave.

        Their block table is a copy. Cost: O(pieces log rows), no look at the forest.
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
        """Pieces x tiles of at most `tile` rows; made once, so a captured graph finds it ready."""
        if tile not in self.made:
            num = -(-(self.pieces[:, 3] - self.pieces[:, 2]) // tile)
            items = np.repeat(self.pieces, num, axis=0)
            items[:, 2] += tile * _counting(num)
            items[:, 3] = np.minimum(items[:, 3], items[:, 2] + tile)
            arrays = (np.ascontiguousarray(items), self.trunk_starts, self.prefix_lengths)
            device = self.block_table.device
            self.made[tile] = Work(*(torch.from_numpy(each).to(device) for each in arrays))
        return self.made[tile]


def _splits(lengths: Ints, split: int) -> tuple[Ints, Ints]:
    """(number of pieces, tokens of each but the last) of segments: pieces of a segment are about equal."""
    size = -(-lengths // np.maximum(1, -(-lengths // split)))
    size = np.minimum(split, -(-size // ALIGNED) * ALIGNED)
    return -(-lengths // size), size


def _by_position(segments: NDArray[Any], positions: NDArray[Any], rows: int) -> tuple[Ints, Ints]:
    """Those with rows and tokens, by rising position."""
    table, where = segments.astype(np.int64).reshape(-1, 4), positions.astype(np.int64)
    if where.shape != table.shape[:1]:
        refuse(OP, "positions", f"shape {table.shape[:1]}", where.shape)
    used = (table[:, 1] > 0) & (table[:, 3] > table[:, 2])
    table, where = table[used], where[used]
    slot, length, start, stop = table.T
    wrong = (slot < 0) | (slot + length > LAST_SLOT) | (start < 0) | (stop > rows)
    if wrong.any():
        got = tuple(table[wrong][0].tolist())
        refuse(OP, "segments", f"slots in [0, {LAST_SLOT}) and rows in [0, {rows}]", got)
    order = np.argsort(where, kind="stable")
    return table[order].astype(np.int32), where[order].astype(np.int32)


def _ranks(segments: Ints, positions: Ints, num: Ints, prefix_lengths: Ints) -> tuple[Ints, Ints]:
    """(pieces above each segment, pieces above each row); walks the forest from its roots, and checks it."""
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
    place = _counting(num)
    tables = (segments, size[:, None], positions[:, None], ranks[:, None])
    whole, step, position, rank = (np.repeat(each, num, axis=0) for each in tables)
    begin = place[:, None] * step
    length = np.minimum(step, whole[:, 1:2] - begin)
    slots, rows = whole[:, :1] + begin, whole[:, ROWS]
    return np.concatenate((slots, length, rows, position + begin, rank + place[:, None]), 1, dtype=np.int32)


def _counting(num: Ints) -> Ints:
    """0 .. num[i] - 1 for each i, end to end."""
    ends = np.cumsum(num, dtype=np.int32)
    return np.arange(num.sum(), dtype=np.int32) - np.repeat(ends - num, num)


def _starts(counts: Ints) -> Ints:
    return np.concatenate(([0], np.cumsum(counts)), dtype=np.int32)


def _among(rows: NDArray[np.int64], table: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """(the table with ranges of rows counted among these rows alone, which of its lines have any)."""
    ranges = np.searchsorted(rows, table[:, ROWS])
    used = ranges[:, 0] < ranges[:, 1]
    moved = table[used]
    moved[:, ROWS] = ranges[used]
    return moved, used
