"""PrefixForest: sequences merged into a trie, in segments; the data structure of all prefix sharing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class PrefixForest:
    """Sequences merged into a trie that stores every distinct prefix once.

        slot j is an ancestor of slot i, or i itself, exactly if  j <= i < subtree_stop()[j]

    A slot is a node of the trie. A segment is a maximal run of slots without a fork and without the end of a
    sequence inside. Both are numbered in depth-first pre-order, children in order of first occurrence, so a
    subtree is a range of segments and of slots. M slots, n segments, S sequences, N input tokens; all arrays
    are int64.

    For the sequences [5 6 7], [5 6], [5 8], [9]:

        slot      0  1  2  3  4        segment    0   1   2   3   4
        tokens    5  6  7  8  9        slots      0   1   2   3   4
        depths    0  1  2  1  0        parents   -1   0   1   0  -1
                                       stops      4   3   3   4   5
        ends      2  1  3  4           counts     3   2   1   1   1
        slots     0 1 2, 0 1, 0 3, 4
    """

    tokens: Ints
    """[M] token of each slot."""
    depths: Ints
    """[M] position of each slot in its sequences, 0 for a first token."""
    starts: Ints
    """[n + 1] slots of segment s are starts[s] .. starts[s + 1] - 1, at least one."""
    parents: Ints
    """[n] parent segment, < s; -1 for a root."""
    stops: Ints
    """[n] the subtree of segment s is segments s .. stops[s] - 1."""
    ends: Ints
    """[S] sequence i ends with the last token of segment ends[i]; -1 for an empty sequence."""
    counts: Ints
    """[n] number of sequences that contain a segment."""
    slots: Ints
    """[N] slot of every input token."""

    @property
    def num_slots(self) -> int:
        return len(self.tokens)

    @property
    def num_segments(self) -> int:
        return len(self.parents)

    @property
    def num_sequences(self) -> int:
        return len(self.ends)

    def segment_of(self) -> Ints:
        """Return the segment of each slot, [M]."""
        return np.repeat(np.arange(self.num_segments, dtype=np.int64), np.diff(self.starts))

    def subtree_stop(self) -> Ints:
        """Return [M]: the subtree of slot j is slots j .. subtree_stop[j] - 1."""
        return np.repeat(self.starts[self.stops], np.diff(self.starts))

    def context_lengths(self) -> Ints:
        """Return the number of tokens from the root to the end of each segment, [n]."""
        return self.depths[self.starts[1:] - 1] + 1

    def path(self, segment: int) -> Ints:
        """Return the segments from the root to this one, inclusive."""
        found = [segment]
        while (above := int(self.parents[found[-1]])) >= 0:
            found.append(above)
        return np.asarray(found[::-1], dtype=np.int64)

    def row_ranges(self, rows_per_segment: Ints) -> tuple[Ints, Ints]:
        """Return the range of rows below each segment, (row_start [n], row_stop [n]).

            row_start[s] = rows of segments before s        row_stop[s] = rows of segments before stops[s]

        Rows are sorted by the segment that they continue. Rows row_start[s] .. row_stop[s] - 1 see all of
        segment s; those that continue s itself come first.

        Args:
            rows_per_segment: [n] int64, number of rows that continue each segment.
        """
        before = np.zeros(self.num_segments + 1, dtype=np.int64)
        np.cumsum(rows_per_segment, out=before[1:])
        return before[:-1], before[self.stops]
