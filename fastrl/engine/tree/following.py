"""Requests follow their tree: while a drawn token is the next one of the tree, it needs no decode step.

Prefill has computed keys, values and hidden states of the whole tree. So a request that draws a token that
comes next in the tree goes on from there, and begins to decode where it first draws another token.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fastrl.engine.tree.kv_pool import Ints
from fastrl.engine.tree.scoring import slots_above
from fastrl.ops import PrefixForest


class NextTokens:
    """The tokens that come next after each token of some forests."""

    def __init__(self, forests: list[PrefixForest]) -> None:
        """Number the forests' slots one forest after the other."""
        bases = np.cumsum([0, *(forest.num_slots for forest in forests)]).tolist()
        above = np.concatenate([_parents(f, base) for f, base in zip(forests, bases, strict=False)])
        below = np.flatnonzero(above >= 0)
        keys = _keys(above[below], np.concatenate([forest.tokens for forest in forests])[below])
        order = np.argsort(keys)
        self._keys, self._slots = keys[order], below[order]

    def any_after(self, slots: Ints) -> bool:
        """Return whether a token comes next after any of these slots."""
        low, high = (
            np.searchsorted(self._keys, _keys(slots, 0)),
            np.searchsorted(self._keys, _keys(slots + 1, 0)),
        )
        return bool((high > low).any())

    def find(self, slots: Ints, tokens: Ints) -> Ints:
        """Return the slot of each token after each slot; -1 where the tree has no such token."""
        if not len(self._keys):
            return np.full(len(slots), -1, dtype=np.int64)
        keys = _keys(slots, tokens)
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        found: Ints = np.where(self._keys[at] == keys, self._slots[at], -1)
        return found


def split(forest: PrefixForest, last: Ints) -> PrefixForest:
    """Return the forest with its segments split, so that each slot of `last` is the last one of a segment."""
    starts = np.unique(np.concatenate((forest.starts, last + 1)))
    whole = np.searchsorted(forest.starts, starts[:-1], side="right") - 1  # the segment that a piece was in
    first_piece = np.searchsorted(whole, np.arange(forest.num_segments + 1))
    last_piece = first_piece[1:] - 1
    parents = np.arange(len(whole)) - 1
    begins = starts[:-1] == forest.starts[whole]
    above = forest.parents[whole[begins]]
    parents[begins] = np.where(above >= 0, last_piece[above], -1)
    return replace(
        forest,
        starts=starts,
        parents=parents,
        stops=first_piece[forest.stops[whole]],
        ends=np.where(forest.ends >= 0, last_piece[forest.ends], -1),
        counts=forest.counts[whole],
    )


def _parents(forest: PrefixForest, base: int) -> Ints:
    above = slots_above(forest) + base
    above[forest.starts[:-1][forest.parents < 0]] = -1
    return above


def _keys(slots: Ints, tokens: Ints | int) -> Ints:
    keys: Ints = (slots << 32) + tokens
    return keys
