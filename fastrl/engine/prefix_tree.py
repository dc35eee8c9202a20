"""The host side of prefix reuse: which tokens of a tree are computed, in what order, and who sees whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive slots [start, stop) that hang below one path."""

    start: int
    stop: int
    context: Ints
    """Slots of the whole path from the first prompt token to the span's last one, itself included."""


@dataclass(frozen=True, slots=True)
class PrefixTrie:
    """A prompt and the prefixes below it, each distinct token path held once.

    A slot is one trie node: slots [0, prompt_len) are the prompt, the others follow path by path, so a
    node's ancestors always have smaller slots.
    """

    tokens: Ints
    """[slots] token of each node."""
    depths: Ints
    """[slots] position of each node in its sequence."""
    prompt_len: int
    paths: tuple[Ints, ...]
    """Slots below the prompt, root to leaf; every prefix lies on one of them."""
    spans: tuple[Span, ...]
    end_paths: Ints
    """[branches] a path that branch b lies on (0 where the branch is empty)."""
    end_lengths: Ints
    """[branches] tokens of that path that belong to branch b."""

    @property
    def num_slots(self) -> int:
        return len(self.tokens)

    def end_slots(self) -> Ints:
        """[branches] slot of each branch's last token; the prompt's last one for an empty branch."""
        last = [
            self.paths[path][length - 1] if length else self.prompt_len - 1
            for path, length in zip(self.end_paths, self.end_lengths, strict=True)
        ]
        return np.asarray(last, dtype=np.int64)


def build_trie(prompt_ids: Sequence[int], branches: Sequence[Sequence[int]]) -> PrefixTrie:
    """Merge a prompt and the prefixes below it into a trie.

        slots = len(prompt) + |{branch[:i] : 1 <= i <= len(branch)}|

    In sorted order a path shares most with its predecessor, so one comparison a path finds its fork.

    Raises:
        ValueError: the prompt is empty.
    Cost: O(total tokens) and a sort of the branches; no Python work per token.
    """
    if len(prompt_ids) == 0:
        raise ValueError("[prefix_tree] prompt_ids: expected at least one token, got none")
    arrays = [np.asarray(branch, dtype=np.int64) for branch in branches]
    order = sorted(range(len(arrays)), key=lambda b: tuple(branches[b]))
    num_prompt = len(prompt_ids)
    prompt_slots = np.arange(num_prompt)
    tokens = [np.asarray(prompt_ids, dtype=np.int64)]
    depths = [prompt_slots]
    spans = [Span(0, num_prompt, prompt_slots)]
    paths: list[Ints] = []
    end_paths = np.zeros(len(arrays), dtype=np.int64)
    end_lengths = np.asarray([len(a) for a in arrays], dtype=np.int64)
    before = np.empty(0, dtype=np.int64)
    next_slot = num_prompt
    on_this_path: list[int] = []
    for rank, branch in enumerate(order):
        ids = arrays[branch]
        on_this_path.append(branch)
        extends = rank + 1 < len(order) and _shared_length(ids, arrays[order[rank + 1]]) == len(ids)
        if extends or len(ids) == 0:
            continue  # the next one, being longer, carries this prefix
        shared = _shared_length(before, ids)
        new = np.arange(next_slot, next_slot + len(ids) - shared)
        path = np.concatenate((paths[-1][:shared] if paths else new[:0], new))
        tokens.append(ids[shared:])
        depths.append(num_prompt + np.arange(shared, len(ids)))
        spans.append(Span(next_slot, next_slot + len(new), np.concatenate((prompt_slots, path))))
        end_paths[on_this_path] = len(paths)
        paths.append(path)
        before, next_slot, on_this_path = ids, next_slot + len(new), []
    return PrefixTrie(
        tokens=np.concatenate(tokens), depths=np.concatenate(depths), prompt_len=num_prompt,
        paths=tuple(paths), spans=tuple(spans), end_paths=end_paths, end_lengths=end_lengths,
    )  # fmt: skip


def _shared_length(a: Ints, b: Ints) -> int:
    shortest = min(len(a), len(b))
    differs = np.flatnonzero(a[:shortest] != b[:shortest])
    return int(differs[0]) if len(differs) else shortest
