"""A prefix tree with its requests: what is asked, which slots of the pool it holds, where its tokens lie."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastrl.engine.sampling import request_keys
from fastrl.engine.tree.kv_pool import BLOCK, Ints, blocks_of
from fastrl.ops import PrefixForest, prefix_tree
from fastrl.types import PrefixTree


@dataclass(slots=True)
class RequestTree:
    """One tree and its requests: request r continues the path down to segment[r] with limit[r] tokens."""

    forest: PrefixForest
    """Segment 0 is the prompt."""
    request_ids: Ints
    """The caller's numbers of the requests; the arrays below run parallel to it, sorted by segment."""
    segment: Ints
    limit: Ints
    key: Ints
    branches: list[int]
    """Of the tree; sequence i + 1 of the forest is the prompt and branches[i]."""
    branch_slots: dict[int, Ints]
    """Forest slots of each branch's tokens."""
    scored: Ints
    """Forest slots whose tokens' log-probs are wanted, given those above them."""
    slots: Ints | None = None
    """[forest slots] where each token lies in the pool, once there is room for the tree."""
    logprobs: NDArray[np.float32] | None = None
    """[forest slots], filled at `scored` when the tree is prefilled."""
    prefilled: bool = False
    started: int = 0
    """Requests request_ids[:started] have begun."""

    @property
    def prompt_len(self) -> int:
        return int(self.forest.starts[1])

    @property
    def end_slots(self) -> Ints:
        """[requests] forest slot of the last token that each request continues."""
        ends: Ints = self.forest.starts[self.segment + 1] - 1
        return ends

    @property
    def prefix_lengths(self) -> Ints:
        """[requests] tokens that each request continues."""
        lengths: Ints = self.forest.depths[self.end_slots] + 1
        return lengths

    @property
    def tail_blocks(self) -> Ints:
        """[requests] blocks for each request's own tokens; the last one never goes through the model."""
        blocks: Ints = -(-(self.limit - 1) // BLOCK)
        return blocks

    def blocks_needed(self) -> int:
        """Return the blocks of the tree and its largest request: with fewer in the pool it can't run."""
        return blocks_of(self.forest.num_slots) + int(self.tail_blocks.max(initial=0))


def make_request_tree(
    tree: PrefixTree, first_ids: Sequence[int], branches: Sequence[int], scored: Collection[int] = ()
) -> RequestTree:
    """Make the requests of some branches of a tree; sample j of branch b is request first_ids[b] + j.

    scored: branches whose tokens' log-probs are wanted.
    """
    # the prompt itself comes first, so that it is a segment of its own
    prompt = np.asarray(tree.prompt_ids, dtype=np.int64)
    below = [np.asarray(tree.branches[b].token_ids, dtype=np.int64) for b in branches]
    stops = np.cumsum([len(prompt), *(len(prompt) + len(ids) for ids in below)])
    tokens = np.concatenate([prompt, *(part for ids in below for part in (prompt, ids))])
    forest = prefix_tree((tokens, np.concatenate(([0], stops))))
    slots = {
        b: forest.slots[stop - len(ids) : stop]
        for b, ids, stop in zip(branches, below, stops[1:], strict=True)
    }
    samples = [(i, b, j) for i, b in enumerate(branches) for j in range(tree.branches[b].num_samples)]
    keys = request_keys([tree.branches[b].seed for _, b, _ in samples], [j for _, _, j in samples])
    segment = forest.ends[1 + np.asarray([i for i, _, _ in samples], dtype=np.int64)]
    order = np.argsort(segment, kind="stable")

    def sorted_by_segment(values: Sequence[int]) -> Ints:
        return np.asarray(values, dtype=np.int64)[order]

    return RequestTree(
        forest=forest,
        branches=list(branches),
        request_ids=sorted_by_segment([first_ids[b] + j for _, b, j in samples]),
        segment=segment[order],
        limit=sorted_by_segment([tree.branches[b].max_new_tokens for _, b, _ in samples]),
        key=sorted_by_segment(keys),
        branch_slots=slots,
        scored=np.unique(
            np.concatenate([np.zeros(0, dtype=np.int64), *(slots[b] for b in branches if b in scored)])
        ),
    )


def depth_first(tree: RequestTree) -> list[int]:
    """Return the tree's branches, those that share most next to each other."""
    return [tree.branches[i] for i in np.argsort(tree.forest.ends[1:], kind="stable")]
