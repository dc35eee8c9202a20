"""Which tiers a cohort's rows read: their prompts, and the paths below them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastrl.engine.jobs import Job
from fastrl.engine.kv_cache import PrefixKV
from fastrl.engine.prefix_tree import Ints
from fastrl.engine.tiers import Tier


class Prefixes:
    """The prefixes of some requests: each request's prompt and the path below it."""

    def __init__(self, parts: Sequence[Job]) -> None:
        self.parts = parts
        self.tree: Ints = np.repeat(np.arange(len(parts)), [len(p.rows) for p in parts])
        self.prompt_lens: Ints = np.asarray([p.trie.prompt_len for p in parts])
        self.path: Ints = np.concatenate([p.path for p in parts])
        self.path_lengths: Ints = np.concatenate([p.path_length for p in parts])
        self.lengths: Ints = self.prompt_lens[self.tree] + self.path_lengths
        kv = parts[0].kv
        assert kv is not None, "jobs are prefilled before they start"
        self.kv: PrefixKV = kv

    def tiers(self) -> list[Tier]:
        """One tier of prompts; one of paths, where there are any."""
        slots = [p.base + np.arange(p.trie.prompt_len) for p in self.parts]
        starts = np.zeros(len(self.parts), dtype=np.int64)
        tiers = [Tier(self.kv, slots, starts, self.tree, self.prompt_lens[self.tree])]
        if self.path_lengths.any():
            tiers.append(self._path_tier())
        return tiers

    def _path_tier(self) -> Tier:
        """One group a path in use, as long as its longest row needs."""
        below = self.path_lengths > 0
        named = np.stack((self.tree, self.path), 1)[below]
        unique, group = np.unique(named, axis=0, return_inverse=True)
        of_row = np.zeros(len(self.tree), dtype=np.int64)  # a row at its prompt sees nothing of group 0
        of_row[below] = group.reshape(-1)
        longest = np.zeros(len(unique), dtype=np.int64)
        np.maximum.at(longest, of_row, self.path_lengths)
        slots = [
            self.parts[tree].base + self.parts[tree].trie.paths[path][:length]
            for (tree, path), length in zip(unique, longest, strict=True)
        ]
        return Tier(self.kv, slots, self.prompt_lens[unique[:, 0]], of_row, self.path_lengths)
