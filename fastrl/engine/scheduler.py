"""Which requests run when: prefill, admission under the token budget, decode to the end."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import torch

from fastrl.engine.cohort import Cohort, DecodeBatch, Finished
from fastrl.engine.decoder import Decoder
from fastrl.engine.jobs import Job, choose
from fastrl.engine.kv_cache import PrefixKV
from fastrl.engine.prefill import PrefillBatch, passes
from fastrl.engine.prefix_tree import Span
from fastrl.engine.protocol import EngineStats
from fastrl.engine.sampling import draw, uniforms
from fastrl.engine.stopping import StopRule
from fastrl.types import SamplingParams

_CHECK_EVERY = {"cpu": 2}
_CHECK_EVERY_ON_DEVICE = 8
_ADMIT_AT = 0.25
"""While rows are decoding, others join when this share of the budget is free: few large cohorts."""


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
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        setattr(self.stats, name, getattr(self.stats, name) + (time.perf_counter() - began) * 1e3)

    def _admit(self) -> None:
        """Start a cohort of as many waiting requests as fit, if that is worthwhile."""
        if not self.queue:
            return
        held = self.queue[0].kv.num_slots if self.queue[0].kv is not None else 0
        free = self.max_batch_tokens - held - sum(cohort.num_tokens for cohort in self.cohorts)
        if self.cohorts and free < _ADMIT_AT * self.max_batch_tokens:
            return
        counts = choose(self.queue, free, at_least_one=not self.cohorts)
        if not counts:
            return
        jobs = [self.queue.popleft() for _ in counts]
        if jobs[0].kv is None:
            self._prefill(jobs)
        parts = [job.part(0, count) for job, count in zip(jobs, counts, strict=True)]
        self.cohorts.append(Cohort(parts, self.sampling, self.stop, self.device))
        rest = jobs[-1].part(counts[-1], None)
        if len(rest.rows):
            self.queue.appendleft(rest)

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
        for job, own_ids, own_logprobs in zip(
            jobs, torch.split(ids, sizes), torch.split(logprobs, sizes), strict=True
        ):
            job.first = (own_ids, own_logprobs)
        self.stats.prefill_tokens += kv.num_slots

    def _decode(self) -> None:
        """A few steps of all cohorts, between two looks at who has ended."""
        steps = min(self.check_every, *(cohort.tokens_to_go for cohort in self.cohorts), self.check_every)
        window = self.decoder.smallest_window
        for _ in range(steps):
            positions = [cohort.begin_step(window, self.decoder.max_model_len) for cohort in self.cohorts]
            batch = DecodeBatch(self.cohorts)
            ids = torch.cat([cohort.last for cohort in self.cohorts])
            logits = self.decoder.logits(ids, torch.cat(positions), batch)
            for cohort, own in zip(self.cohorts, torch.split(logits, batch.sizes), strict=True):
                cohort.take(own)
