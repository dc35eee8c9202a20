"""Where a cohort's rows find their prefixes: in shared tiers, or copied in front of their own tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fastrl.engine.jobs import Job
from fastrl.engine.kv_cache import PrefixKV, SuffixKV
from fastrl.engine.prefix_tree import Ints
from fastrl.engine.tiers import Tier

_COPY_BELOW = 1 << 18
"""Keys of a layer, in numbers. Fewer than this are copied to every row: reading them again and again costs
less than the handful of operations that a shared tier takes."""


class Prefixes:
    """The prefixes of some requests, each request's prompt and the path below it."""

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

    def should_copy(self, room: int) -> bool:
        """Whether copies are the cheaper way and hold no more than `room` tokens."""
        keys = next(iter(self.kv.layers.values()))[0]
        copied = len(self.lengths) * int(self.lengths.max())
        return copied <= room and copied * keys.shape[1] * keys.shape[2] <= _COPY_BELOW

    def copied(self, max_tokens: int) -> tuple[SuffixKV, Tensor | None]:
        """Every row's own copy, aligned to the right, with room for max_tokens; and what hides the padding,
        additive [R, 1, 1, L]."""
        rows, longest = len(self.lengths), int(self.lengths.max())
        slots = np.empty((rows, longest), dtype=np.int64)
        for row, (tree, path, below) in enumerate(zip(self.tree, self.path, self.path_lengths, strict=True)):
            part = self.parts[tree]
            prompt = np.arange(part.trie.prompt_len - (longest - below), part.trie.prompt_len)
            slots[row, : longest - below] = part.base + np.maximum(prompt, 0)
            if below:
                slots[row, longest - below :] = part.base + part.trie.paths[path][:below]
        suffix = SuffixKV(longest + max_tokens, self.kv.gather(slots), longest)
        hidden = np.arange(longest) < longest - self.lengths[:, None]
        if not hidden.any():
            return suffix, None
        keys = next(iter(suffix.layers.values()))[0]
        where = torch.from_numpy(hidden).to(keys.device)
        mask = torch.zeros(where.shape, dtype=keys.dtype, device=keys.device).masked_fill_(where, -torch.inf)
        return suffix, mask[:, None, None]

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
