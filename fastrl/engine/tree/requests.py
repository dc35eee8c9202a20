"""Trees waiting for their turn: what they ask for, what they hold, where their tokens lie."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fastrl.engine.sampling import request_keys
from fastrl.engine.tree.kv_pool import BLOCK, Ints, blocks_of
from fastrl.ops import PrefixForest, prefix_tree
from fastrl.types import PrefixTree


@dataclass(slots=True)
class Job:
    """One tree and its requests: request r continues the path down to segment[r] with limit[r] tokens."""

    forest: PrefixForest
    """Segment 0 is the prompt."""
    rows: Ints
    """The caller's names of the requests; the arrays below run parallel to it, sorted by segment."""
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
    holds: list[tuple[int, int]] = field(default_factory=list)
    """(first slot, tokens) of what it keeps in the pool for itself."""
    prefilled: bool = False
    known: int = 0
    """The tree's first tokens whose keys and values were in the pool before."""
    started: int = 0
    """Requests rows[:started] have begun."""

    @property
    def prompt_ids(self) -> Ints:
        prompt: Ints = self.forest.tokens[: self.forest.starts[1]]
        return prompt

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
        """Of the tree and its largest request: with fewer in the pool it can't run at all."""
        return blocks_of(self.forest.num_slots) + int(self.tail_blocks.max(initial=0))


def make_job(
    tree: PrefixTree, first_rows: Sequence[int], branches: Sequence[int], scored: Collection[int] = ()
) -> Job:
    """Requests of some branches of a tree; sample j of branch b is named first_rows[b] + j.

    scored: branches whose tokens' log-probs are wanted.

    Raises:
        ValueError: the prompt is empty.
    """
    if len(tree.prompt_ids) == 0:
        raise ValueError("[engine] prompt_ids: expected at least one token, got none")
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
    samples = [(place, b, j) for place, b in enumerate(branches) for j in range(tree.branches[b].num_samples)]
    keys = request_keys([tree.branches[b].seed for _, b, _ in samples], [j for _, _, j in samples])
    segment = forest.ends[1 + np.asarray([place for place, _, _ in samples], dtype=np.int64)]
    order = np.argsort(segment, kind="stable")

    def sorted_by_segment(values: Sequence[int]) -> Ints:
        return np.asarray(values, dtype=np.int64)[order]

    return Job(
        forest=forest,
        branches=list(branches),
        rows=sorted_by_segment([first_rows[b] + j for _, b, j in samples]),
        segment=segment[order],
        limit=sorted_by_segment([tree.branches[b].max_new_tokens for _, b, _ in samples]),
        key=sorted_by_segment(keys),
        branch_slots=slots,
        scored=np.unique(
            np.concatenate([np.zeros(0, dtype=np.int64), *(slots[b] for b in branches if b in scored)])
        ),
    )


def depth_first(job: Job) -> list[int]:
    """The job's branches, those that share most side by side."""
    return [job.branches[place] for place in np.argsort(job.forest.ends[1:], kind="stable")]
