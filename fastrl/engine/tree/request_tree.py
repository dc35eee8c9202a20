"""A prefix tree with its requests and the pool slots of its tokens."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastrl.engine.sampling import request_keys
from fastrl.engine.tree.following import split
from fastrl.engine.tree.kv_pool import BLOCK, Ints, blocks_of
from fastrl.ops import PrefixForest, prefix_tree
from fastrl.types import PrefixTree


@dataclass(slots=True)
class RequestTree:
    """A tree and its requests: request r continues the path that ends in segment[r] by limit[r] tokens."""

    forest: PrefixForest
    """Segment 0 is the prompt."""
    request_ids: Ints
    """[requests] ids of the requests, sorted by segment, as are segment, limit and key."""
    segment: Ints
    limit: Ints
    """max_new_tokens."""
    key: Ints
    """Key of the random stream."""
    branches: list[int]
    """Branches of the tree; sequence i + 1 of the forest is the prompt and branches[i]."""
    branch_slots: dict[int, Ints]
    """Forest slots of each branch's tokens."""
    scored: Ints
    """Forest slots of the tokens to score."""
    slots: Ints | None = None
    """[forest slots] pool slot of each token; None before the tree has been allocated."""
    logprobs: NDArray[np.float32] | None = None
    """[forest slots], filled at `scored` during prefill."""
    prefilled: bool = False
    started: int = 0
    """Requests request_ids[:started] have started."""
    followed: Ints | None = None
    """[requests] tokens by which each request has followed the tree; None: it has not been prefilled."""

    @property
    def prompt_len(self) -> int:
        return int(self.forest.starts[1])

    @property
    def end_slots(self) -> Ints:
        """[requests] forest slot of the last token of each request's prefix."""
        ends: Ints = self.forest.starts[self.segment + 1] - 1
        return ends

    @property
    def prefix_lengths(self) -> Ints:
        """[requests] length of each request's prefix."""
        lengths: Ints = self.forest.depths[self.end_slots] + 1
        return lengths

    @property
    def tail_limit(self) -> Ints:
        """[requests] longest tail of each request: the last sampled token needs no slot."""
        return self.limit - 1 - (0 if self.followed is None else self.followed)

    @property
    def tail_blocks(self) -> Ints:
        """[requests] blocks of each request's tail."""
        blocks: Ints = -(-self.tail_limit // BLOCK)
        return blocks

    def follow_to(self, slots: Ints) -> None:
        """Let each request continue from a forest slot at or below the end of its path; slots: [requests]."""
        self.followed = self.forest.depths[slots] - self.forest.depths[self.end_slots]
        self.forest = split(self.forest, slots)
        self.segment = np.searchsorted(self.forest.starts, slots + 1) - 1

    def blocks_needed(self) -> int:
        """Return the blocks of the tree and its longest request, the least that the pool must have."""
        return blocks_of(self.forest.num_slots) + int(self.tail_blocks.max(initial=0))


def make_request_tree(
    tree: PrefixTree, first_ids: Sequence[int], branches: Sequence[int], scored: Collection[int] = ()
) -> RequestTree:
    """Return the request tree of some branches of a tree; sample j of branch b is request first_ids[b] + j.

    Args:
        scored: branches whose tokens are scored.
    """
    # the prompt is the first sequence, so that it is a segment of its own
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
    """Return the tree's branches in depth-first order, so that branches with a common prefix are adjacent."""
    return [tree.branches[i] for i in np.argsort(tree.forest.ends[1:], kind="stable")]
