"""Which requests run when: prefill, admission under the token budget, decode to the end."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastrl.engine.cohort import Cohort, DecodeBatch, Finished
from fastrl.engine.decoder import Decoder
from fastrl.engine.kv_cache import PrefixKV
from fastrl.engine.prefill import PrefillBatch, passes
from fastrl.engine.prefix_tree import Ints, PrefixTrie, Span
from fastrl.engine.protocol import EngineStats
from fastrl.engine.sampling import draw, uniforms
from fastrl.engine.stopping import StopRule
from fastrl.engine.tiers import Tier
from fastrl.types import SamplingParams

_CHECK_EVERY = {"cpu": 2}
_CHECK_EVERY_ON_DEVICE = 8
_ADMIT_AT = 0.25
"""While rows are decoding, others join when this share of the budget is free: few large cohorts."""


@dataclass(slots=True)
class Job:
    """One tree and its requests: request r continues path[r][:path_length[r]] with limit[r] tokens."""

    trie: PrefixTrie
    rows: Ints
    """The caller's names of the requests; the other arrays run parallel to it, sorted by path."""
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
    admitted: int = 0

    def cost(self, count: int) -> tuple[int, int, int, int, int]:
        """Of the next `count` requests: trees, prompt length, paths, longest path, longest limit."""
        chosen = slice(self.admitted, self.admitted + count)
        lengths = self.path_length[chosen]
        paths = len(np.unique(self.path[chosen][lengths > 0]))
        return 1, self.trie.prompt_len, paths, int(lengths.max()), int(self.limit[chosen].max())

    @property
    def waiting(self) -> int:
        return len(self.rows) - self.admitted


class Scheduler:
    """Runs jobs to their end within `max_batch_tokens` tokens of keys and values."""

    def __init__(
        self, decoder: Decoder, sampling: SamplingParams, stop: StopRule, max_batch_tokens: int,
        stats: EngineStats,
    ) -> None:  # fmt: skip
        self.decoder, self.sampling, self.stop, self.stats = decoder, sampling, stop, stats
        self.max_batch_tokens = max_batch_tokens
        self.device = decoder.device
        self.check_every = _CHECK_EVERY.get(self.device.type, _CHECK_EVERY_ON_DEVICE)

    def run(self, jobs: Sequence[Job]) -> list[Finished]:
        """Every request of every job, in no particular order."""
        # alike lengths share a cohort, where they are padded to one
        self.queue = deque(sorted(jobs, key=lambda job: (job.trie.prompt_len, job.trie.num_slots)))
        self.cohorts: list[Cohort] = []
        finished: list[Finished] = []
        while self.queue or self.cohorts:
            self._time("prefill_ms", self._admit)
            self._time("decode_ms", self._decode)
            for cohort in [c for c in self.cohorts if not c.check()]:
                finished += cohort.results()
                self.cohorts.remove(cohort)
        return finished

    def _time(self, name: str, work: Callable[[], None]) -> None:
        began = time.perf_counter()
        work()
        setattr(self.stats, name, getattr(self.stats, name) + (time.perf_counter() - began) * 1e3)

    def _admit(self) -> None:
        """Start a cohort of as many waiting requests as fit, if that is worthwhile."""
        if not self.queue:
            return
        held = self.queue[0].kv.num_slots if self.queue[0].kv is not None else 0
        free = self.max_batch_tokens - held - sum(cohort.num_tokens for cohort in self.cohorts)
        if self.cohorts and free < _ADMIT_AT * self.max_batch_tokens:
            return
        chosen = self._choose(free)
        if not chosen:
            return
        if chosen[0][0].kv is None:
            self._prefill([job for job, _ in chosen])
        self.cohorts.append(self._cohort(chosen))
        for job, count in chosen:
            job.admitted += count
            if not job.waiting:
                job.kv = job.first = None
                self.queue.remove(job)

    def _choose(self, free: int) -> list[tuple[Job, int]]:
        """Whole jobs from the front of the queue; part of one if it alone is more than what is free."""
        chosen: list[tuple[Job, int]] = []
        costs = np.zeros(5, dtype=np.int64)
        num_rows = 0
        for job in self.queue:
            if chosen and (job.kv is not None or chosen[0][0].kv is not None):
                break  # a started job has its own prefix storage
            both = _joined(costs, job.cost(job.waiting))
            if _tokens(both, num_rows + job.waiting) > free:
                break
            chosen.append((job, job.waiting))
            costs, num_rows = both, num_rows + job.waiting
        if chosen or (self.cohorts and self.queue[0].kv is None):
            return chosen
        job = self.queue[0]
        fits = [n for n in range(1, job.waiting) if _tokens(np.asarray(job.cost(n)), n) <= free]
        if not fits and self.cohorts:
            return []
        return [(job, max(fits, default=1))]

    def _prefill(self, jobs: Sequence[Job]) -> None:
        """Run every token of the jobs' tries through the model once; draw the requests' first tokens."""
        kv = PrefixKV(sum(job.trie.num_slots for job in jobs))
        spans: list[Span] = []
        base = 0
        for job in jobs:
            job.kv, job.base = kv, base
            spans += [Span(s.start + base, s.stop + base, s.context + base) for s in job.trie.spans]
            base += job.trie.num_slots
        tokens = torch.from_numpy(np.concatenate([job.trie.tokens for job in jobs])).to(self.device)
        depths = torch.from_numpy(np.concatenate([job.trie.depths for job in jobs])).to(self.device)
        ends = np.concatenate([job.end_slot + job.base for job in jobs])
        keys = torch.from_numpy(np.concatenate([job.key for job in jobs])).to(self.device)
        u = uniforms(keys, 0, 1)[:, 0]
        ids = torch.empty(len(ends), dtype=torch.int64, device=self.device)
        logprobs = torch.empty(len(ends), device=self.device)
        for piece in passes(spans):
            first, last = piece[0].start, piece[-1].stop
            here = np.flatnonzero((ends >= first) & (ends < last))
            slots, source = np.unique(ends[here], return_inverse=True)
            keep = torch.from_numpy(slots - first).to(self.device)
            batch = PrefillBatch(kv, piece, self.device)
            logits = self.decoder.logits(tokens[first:last], depths[first:last], batch, keep)
            if len(here):
                rows = torch.from_numpy(here).to(self.device)
                ids[rows], logprobs[rows] = draw(
                    logits, u[rows], self.sampling, torch.from_numpy(source).to(self.device)
                )
        sizes = [len(job.rows) for job in jobs]
        for job, own_ids, own_logprobs in zip(jobs, ids.split(sizes), logprobs.split(sizes), strict=True):
            job.first = (own_ids, own_logprobs)
        self.stats.prefill_tokens += kv.num_slots

    def _cohort(self, chosen: Sequence[tuple[Job, int]]) -> Cohort:
        parts = [_part(job, slice(job.admitted, job.admitted + count)) for job, count in chosen]
        kv = chosen[0][0].kv
        assert kv is not None, "jobs are prefilled before they are admitted"
        lengths = np.concatenate([p.path_length for p in parts])
        tree = np.repeat(np.arange(len(parts)), [len(p.rows) for p in parts])
        prompts = [p.base + np.arange(p.trie.prompt_len) for p in parts]
        prompt_lens = np.asarray([p.trie.prompt_len for p in parts])
        tiers = [Tier(kv, prompts, np.zeros(len(parts), dtype=np.int64), tree, prompt_lens[tree])]
        if lengths.any():
            tiers.append(_path_tier(kv, parts, tree, lengths))
        first = [p.first for p in parts if p.first is not None]
        return Cohort(
            rows=np.concatenate([p.rows for p in parts]), tiers=tiers,
            prefix_lengths=prompt_lens[tree] + lengths, limits=np.concatenate([p.limit for p in parts]),
            keys=torch.from_numpy(np.concatenate([p.key for p in parts])).to(self.device),
            first=(torch.cat([ids for ids, _ in first]), torch.cat([logprobs for _, logprobs in first])),
            sampling=self.sampling, stop=self.stop,
        )  # fmt: skip

    def _decode(self) -> None:
        """A few steps of all cohorts, between two looks at who has ended."""
        steps = min(self.check_every, *(cohort.tokens_to_go for cohort in self.cohorts), self.check_every)
        for _ in range(steps):
            positions = [cohort.begin_step(self.decoder.smallest_window) for cohort in self.cohorts]
            batch = DecodeBatch(self.cohorts)
            ids = torch.cat([cohort.last for cohort in self.cohorts])
            logits = self.decoder.logits(ids, torch.cat(positions), batch)
            for cohort, own in zip(self.cohorts, logits.split(batch.sizes), strict=True):
                cohort.take(own)


def _joined(a: Ints, b: Sequence[int]) -> Ints:
    """Costs of two sets of requests together: trees and paths add up, lengths are padded to the longest."""
    return np.asarray([a[0] + b[0], max(a[1], b[1]), a[2] + b[2], max(a[3], b[3]), max(a[4], b[4])])


def _tokens(cost: Ints, num_rows: int) -> int:
    trees, prompt, paths, path, limit = (int(c) for c in cost)
    return trees * prompt + paths * path + num_rows * limit


def _part(job: Job, chosen: slice) -> Job:
    first = None if job.first is None else (job.first[0][chosen], job.first[1][chosen])
    return Job(
        job.trie, job.rows[chosen], job.end_slot[chosen], job.path[chosen], job.path_length[chosen],
        job.limit[chosen], job.key[chosen], job.kv, job.base, first,
    )  # fmt: skip


def _path_tier(kv: PrefixKV, parts: Sequence[Job], tree: Ints, lengths: Ints) -> Tier:
    """One group a path that the rows use, as long as the longest of them needs."""
    paths = np.concatenate([p.path for p in parts])
    named = np.stack((tree, paths), 1)
    unique, group = np.unique(named[lengths > 0], axis=0, return_inverse=True)
    of_row = np.zeros(len(tree), dtype=np.int64)  # a row without a path sees nothing of group 0
    of_row[lengths > 0] = group.reshape(-1)
    longest = np.zeros(len(unique), dtype=np.int64)
    np.maximum.at(longest, of_row, lengths)
    slots = [
        parts[t].base + parts[t].trie.paths[p][:length]
        for (t, p), length in zip(unique, longest, strict=True)
    ]
    starts = np.asarray([parts[t].trie.prompt_len for t in unique[:, 0]])
    return Tier(kv, slots, starts, of_row, lengths)
