"""Which requests run when: a tree gets room in the pool, is prefilled once, its requests join as they fit."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from fastrl.engine.protocol import EngineStats
from fastrl.engine.sampling import draw, uniforms
from fastrl.engine.tree.decode_batch import Running
from fastrl.engine.tree.decoder import Decoder
from fastrl.engine.tree.kv_pool import Ints, KVPool, blocks_of, on_device
from fastrl.engine.tree.outputs import Book, Finished
from fastrl.engine.tree.prefill import PrefillBatch, Span, passes
from fastrl.engine.tree.prefill_tokens import Stream
from fastrl.engine.tree.prompts import PromptCache
from fastrl.engine.tree.requests import Job
from fastrl.engine.tree.stopping import StopRule
from fastrl.types import SamplingParams

_LOOK_EVERY = {"cpu": 2}
_LOOK_EVERY_ON_DEVICE = 8
_JOIN_AT = 0.25
"""While rows decode, others join when this share of the pool is free: few prefills of many tokens each."""
_SETTLE_AT = 0.85
"""Rows that have ended leave the batch when no more than this share is alive."""

Watch = Callable[[Sequence[Finished]], Iterable[int]]
"""Is told which requests have ended, and names requests that need not go on."""


class Scheduler:
    """Runs jobs to their end within the pool."""

    def __init__(
        self, decoder: Decoder, sampling: SamplingParams, stop: StopRule, pool: KVPool, prompts: PromptCache,
        stats: EngineStats, score_temperature: float = 1.0,
    ) -> None:  # fmt: skip
        self.decoder, self.sampling, self.stop, self.stats = decoder, sampling, stop, stats
        self.score_temperature = score_temperature
        self.pool, self.prompts = pool, prompts
        self.device = decoder.device
        self.look_every = _LOOK_EVERY.get(self.device.type, _LOOK_EVERY_ON_DEVICE)

    def run(self, jobs: Sequence[Job], watch: Watch | None = None) -> list[Finished]:
        """Every request of every job, in no particular order; their names are 0 .. number of requests - 1."""
        if not jobs:
            return []
        names = np.concatenate([job.rows for job in jobs])
        limits = np.zeros(len(names), dtype=np.int64)
        limits[names] = np.concatenate([job.limit for job in jobs])
        self.book = Book(limits, self.stop, self.look_every)
        self.running = Running(self.pool, self.book, self.sampling, self.stats, self.device)
        self.finished: list[Finished] = []
        self.watch = watch
        # trees of alike size share a prefill, where they are padded to one
        self.waiting = deque(sorted(jobs, key=lambda job: (job.prompt_len, job.forest.num_slots)))
        done = False
        try:
            while self.waiting or self.running.num_rows:
                self._time("prefill_ms", self._admit)
                self._time("decode_ms", self._decode)
            done = True
        finally:
            if not done:  # what the requests held is held by nobody
                self.prompts.forget()
                self.pool.free()
        return self.finished

    def _time(self, name: str, work: Callable[[], None]) -> None:
        began = time.perf_counter()
        work()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        setattr(self.stats, name, getattr(self.stats, name) + (time.perf_counter() - began) * 1e3)

    def _admit(self) -> None:
        """Let those leave that have ended, and those join that fit, if either is worthwhile."""
        alive, rows = self.running.num_alive, self.running.num_rows
        free = self.pool.free_blocks + self.running.ended_blocks
        joins = bool(self.waiting) and (not alive or free >= _JOIN_AT * self.pool.num_blocks)
        if not joins and (alive == rows or alive > _SETTLE_AT * rows):
            return
        self._release(self.running.settle())
        if not joins:
            return
        chosen = self._choose()
        if not chosen and not self.running.num_rows:
            raise RuntimeError("[engine] scheduler: expected room for a request while none runs, got none")
        fresh = [job for job, _ in chosen if not job.prefilled]
        if fresh:
            self._prefill(fresh)
        joining = [(job, requests[self.book.alive(job.rows[requests])]) for job, requests in chosen]
        self._release(self.running.settle([(job, living) for job, living in joining if len(living)]))
        self._release([job for job, living in joining if not len(living) and job not in self.running.jobs])

    def _choose(self) -> list[tuple[Job, Ints]]:
        """Jobs at the queue's front and how many of their requests start; room for the trees is taken.

        Jobs go whole; one that alone is more than there is room for goes in parts, where nothing else runs
        or a part of it has run already.
        """
        chosen: list[tuple[Job, Ints]] = []
        promised = 0
        while self.waiting:
            job = self.waiting[0]
            alone = not chosen and not self.running.num_rows
            if not self._place(job, promised, whole=not alone):
                break
            room = np.cumsum(job.tail_blocks[job.started :]) <= self.pool.free_blocks - promised
            count = int(room.sum())
            if len(job.rows) and not count:
                break
            requests = np.arange(job.started, job.started + count)
            job.started += count
            promised += int(job.tail_blocks[requests].sum())
            chosen.append((job, requests))
            if job.started < len(job.rows):
                break
            self.waiting.popleft()
        return chosen

    def _place(self, job: Job, promised: int, whole: bool) -> bool:
        """Slots for the job's tree, if it has none; False where there is no room (whole: for all of it)."""
        if job.slots is not None:
            return True
        prompt = tuple(job.prompt_ids.tolist()) if self.prompts.keeps else None
        cached = None if prompt is None else self.prompts.take(prompt)
        tails = job.tail_blocks.sum() if whole else job.tail_blocks[:1].sum()
        prompt_len, num_slots = job.prompt_len, job.forest.num_slots
        pieces = [num_slots] if prompt is None else [prompt_len, num_slots - prompt_len]
        if cached is not None:
            pieces = pieces[1:]
        starts = self._take_trunks(pieces, promised + int(tails))
        if starts is None:
            if cached is not None and prompt is not None:
                self.prompts.leave(prompt)
                if not whole:  # nothing else runs: the kept prompt itself lies in the way
                    self.prompts.clear()
                    return self._place(job, promised, whole)
            return False
        ranges = list(zip(starts, pieces, strict=True))
        job.holds = ranges if prompt is None else ranges[-1:]
        job.known = 0 if cached is None else prompt_len - 1  # the last one's logits may be asked for
        if cached is not None:
            ranges.insert(0, (cached, prompt_len))
        elif prompt is not None:
            self.prompts.put(prompt, starts[0])
        job.slots = np.concatenate([np.arange(start, start + length) for start, length in ranges])
        return True

    def _take_trunks(self, pieces: Sequence[int], spared: int) -> list[int] | None:
        """Pieces of the pool with `spared` blocks left beside them; kept prompts make room."""
        needed = sum(blocks_of(piece) for piece in pieces) + spared
        starts: list[int] = []
        while self.pool.free_blocks >= needed or self.prompts.evict():
            if self.pool.free_blocks < needed:
                continue
            for piece in pieces[len(starts) :]:
                start = self.pool.take_trunk(piece)
                if start is None:
                    break
                starts.append(start)
                needed -= blocks_of(piece)
            if len(starts) == len(pieces):
                return starts
            if not self.prompts.evict():
                break
        for start, piece in zip(starts, pieces, strict=False):
            self.pool.give_trunk(start, piece)
        return None

    def _release(self, jobs: Iterable[Job]) -> None:
        """Trees go when none of their requests runs or waits."""
        for job in jobs:
            if job.started < len(job.rows):
                continue
            for start, length in job.holds:
                self.pool.give_trunk(start, length)
            if self.prompts.keeps:
                self.prompts.leave(tuple(job.prompt_ids.tolist()))
            job.holds, job.slots = [], None

    def _prefill(self, jobs: Sequence[Job]) -> None:
        """Run every token of the jobs' trees through the model once; draw the requests' first tokens."""
        stream = Stream(jobs, self.device)
        u = uniforms(on_device(np.concatenate([job.key for job in jobs]), self.device), 0, 1)[:, 0]
        ids = torch.empty(len(u), dtype=torch.int64, device=self.device)
        logprobs = torch.empty(len(u), device=self.device)
        for piece in passes(stream.spans):
            first, stop = piece[0].start, piece[-1].stop
            here = np.flatnonzero((stream.ends >= first) & (stream.ends < stop))
            places, source = np.unique(stream.ends[here], return_inverse=True)
            logits = self._pass(stream, piece, places - first)
            if len(here):
                rows = on_device(here, self.device)
                drawn = draw(logits, u[rows], self.sampling, on_device(source, self.device))
                ids[rows], logprobs[rows] = drawn
        stream.finish()
        for job in jobs:
            job.prefilled = True
        self.stats.prefill_tokens += len(stream.tokens)
        self.stats.cached_tokens += sum(job.known for job in jobs)
        names = np.concatenate([job.rows for job in jobs])
        self._end(self.book.record(names, ids[:, None].cpu().numpy(), logprobs[:, None].cpu().numpy()))

    def _pass(self, stream: Stream, piece: Sequence[Span], places: Ints) -> Tensor:
        """One forward pass; logits [places, V] of its tokens at these places."""
        part = slice(piece[0].start, piece[-1].stop)
        tokens, depths = stream.tokens[part], stream.depths[part]
        batch, keep = PrefillBatch(self.pool, piece, self.device), on_device(places, self.device)
        if not stream.scores:
            return self.decoder.logits(tokens, depths, batch, keep)
        hidden = self.decoder.hidden(tokens, depths, batch)
        stream.score(hidden, piece[0].start, self.decoder.head, self.score_temperature)
        return self.decoder.head_logits(hidden[keep])

    def _decode(self) -> None:
        """A few steps of all rows, between two looks at who has ended."""
        for _ in range(min(self.look_every, self.running.tokens_to_go)):
            self.running.step(self.decoder)
        self._end(self.running.look())

    def _end(self, finished: list[Finished]) -> None:
        self.finished += finished
        if finished and self.watch is not None:
            self.finished += self.book.cancel(np.asarray([*self.watch(finished)], dtype=np.int64))
