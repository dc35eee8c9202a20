"""Trees waiting for their turn, and how many of their requests fit into a token budget."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from torch import Tensor

from fastrl.engine.kv_cache import PrefixKV
from fastrl.engine.prefix_tree import Ints, PrefixTrie, build_trie
from fastrl.engine.sampling import request_keys
from fastrl.types import PrefixTree


@dataclass(slots=True)
class Job:
    """One tree and its requests: request r continues paths[path[r]][:path_length[r]] with limit[r] tokens."""

    trie: PrefixTrie
    rows: Ints
    """The caller's names of the requests; the arrays below run parallel to it, sorted by path."""
    end_slot: Ints
    path: Ints
    path_length: Ints
    limit: Ints
    key: Ints
    kv: PrefixKV | None = None
    base: int = 0
    """Where the trie's slots begin in kv."""
    first: tuple[Tensor, Tensor] | None = None
    """Ids and log-probs of every request's first token, drawn when the tree is prefilled."""

    def part(self, start: int, stop: int | None) -> Job:
        """The job with these of its requests only."""
        rows = slice(start, stop)
        return replace(
            self,
            rows=self.rows[rows],
            end_slot=self.end_slot[rows],
            path=self.path[rows],
            path_length=self.path_length[rows],
            limit=self.limit[rows],
            key=self.key[rows],
            first=None if self.first is None else (self.first[0][rows], self.first[1][rows]),
        )


def make_job(tree: PrefixTree, first_row: int) -> Job:
    """Requests of a tree; rows are named in the order [branch][sample] from first_row on."""
    trie = build_trie(tree.prompt_ids, [branch.token_ids for branch in tree.branches])
    samples = [(b, j) for b, branch in enumerate(tree.branches) for j in range(branch.num_samples)]
    keys = request_keys([tree.branches[b].seed for b, _ in samples], [j for _, j in samples])
    branch = np.asarray([b for b, _ in samples], dtype=np.int64)
    order = np.lexsort((trie.end_lengths[branch], trie.end_paths[branch]))
    branch = branch[order]
    limits = np.asarray([b.max_new_tokens for b in tree.branches], dtype=np.int64)
    return Job(
        trie=trie,
        rows=first_row + order,
        end_slot=trie.end_slots()[branch],
        path=trie.end_paths[branch],
        path_length=trie.end_lengths[branch],
        limit=limits[branch],
        key=np.asarray(keys, dtype=np.int64)[order],
    )


class Cost(NamedTuple):
    """What requests hold together: shared prefixes padded to the longest, and room for their tokens."""

    trees: int = 0
    prompt: int = 0
    paths: int = 0
    path: int = 0
    rows: int = 0
    limit: int = 0

    @property
    def tokens(self) -> int:
        return self.trees * self.prompt + self.paths * self.path + self.rows * self.limit

    def joined(self, other: Cost) -> Cost:
        return Cost(
            self.trees + other.trees,
            max(self.prompt, other.prompt),
            self.paths + other.paths,
            max(self.path, other.path),
            self.rows + other.rows,
            max(self.limit, other.limit),
        )


def cost_of(job: Job, count: int) -> Cost:
    """Of a job's first `count` requests."""
    lengths = job.path_length[:count]
    paths = len(np.unique(job.path[:count][lengths > 0]))
    return Cost(1, job.trie.prompt_len, paths, int(lengths.max()), count, int(job.limit[:count].max()))


def choose(queue: Sequence[Job], free: int, at_least_one: bool) -> list[int]:
    """How many requests of each job at the queue's front to start within `free` tokens.

    Jobs go whole; one that alone is more than `free` goes in parts where nothing else runs
    (at_least_one) or a part of it has run already. A prefilled job goes alone, it has its own storage.
    """
    counts: list[int] = []
    total = Cost()
    for job in queue:
        if counts and job.kv is not None:
            break
        both = total.joined(cost_of(job, len(job.rows)))
        if both.tokens > free:
            break
        counts.append(len(job.rows))
        total = both
        if job.kv is not None:
            break
    if counts or not (at_least_one or queue[0].kv is not None):
        return counts
    job = queue[0]
    fits = bisect_right(range(1, len(job.rows)), free, key=lambda n: cost_of(job, n).tokens)
    fits = max(fits, int(at_least_one))
    return [fits] if fits else []
