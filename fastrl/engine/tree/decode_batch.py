"""The rows that are decoding: they join and leave at any time, share trunks and own their tails."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastrl.engine.protocol import EngineStats
from fastrl.engine.sampling import draw, uniforms
from fastrl.engine.tree.attention import AttentionLayer
from fastrl.engine.tree.decoder import Decoder
from fastrl.engine.tree.kv_pool import BLOCK, Ints, KVPool, on_device
from fastrl.engine.tree.outputs import Book, Finished
from fastrl.engine.tree.requests import Job
from fastrl.ops import DecodePlan, tree_decode
from fastrl.types import SamplingParams

_UNIFORMS_AHEAD = 32
_WORTH_CAPTURING = 16
"""Steps that rows must have to go: capturing costs about as much as two of them."""


_capturing = threading.Lock()


def captured(work: Callable[[], None], device: torch.device) -> torch.cuda.CUDAGraph:
    """A graph of `work` on this device. Engines of other devices may capture in other threads, one after the
    other, and what those threads do meanwhile ends no capture here."""
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    with _capturing, torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        work()
    return graph


@dataclass(slots=True)
class _Rows:
    """What the host knows of each row in the batch; arrays run parallel, sorted by (job, segment)."""

    name: Ints
    job: Ints
    """Which of the running jobs."""
    segment: Ints
    """Of the job's forest: the row continues the path down to it."""
    key: Ints
    prefix_length: Ints
    capacity: Ints
    """Most tokens of its own that go through the model."""
    blocks: Ints
    """[rows, most blocks] pool slots where the tail's blocks begin; -1 where the row has no more."""

    def pick(self, rows: Ints | NDArray[np.bool_]) -> _Rows:
        return _Rows(*(getattr(self, name)[rows] for name in self.__slots__))

    @classmethod
    def joined(cls, parts: Sequence[_Rows]) -> _Rows:
        """The parts one after another."""
        widest = max(part.blocks.shape[1] for part in parts)
        for part in parts:
            missing = widest - part.blocks.shape[1]
            part.blocks = np.pad(part.blocks, ((0, 0), (0, missing)), constant_values=-1)
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__slots__))


class Running:
    """One token of every row goes through the model at a step; a row that has ended stays until `settle`."""

    def __init__(
        self, pool: KVPool, book: Book, sampling: SamplingParams, stats: EngineStats, device: torch.device
    ) -> None:
        self.pool, self.book, self.sampling, self.device = pool, book, sampling, device
        self.stats = stats
        self.jobs: list[Job] = []
        self.rows = _Rows(*(np.zeros(0, dtype=np.int64),) * 6, np.zeros((0, 0), dtype=np.int64))
        self._new: list[tuple[Tensor, Tensor]] = []
        self._plan: DecodePlan
        self._graph: torch.cuda.CUDAGraph | None = None

    @property
    def num_rows(self) -> int:
        """Rows that go through the model, ended ones included."""
        return len(self.rows.name)

    @property
    def num_alive(self) -> int:
        return int(self.book.alive(self.rows.name).sum())

    @property
    def ended_blocks(self) -> int:
        """Blocks that come back when the rows settle."""
        return int((self.rows.blocks[~self.book.alive(self.rows.name)] >= 0).sum())

    @property
    def tokens_to_go(self) -> int:
        """Steps after which every row has reached its limit."""
        names = self.rows.name[self.book.alive(self.rows.name)]
        return int((self.book.limits - self.book.lengths)[names].max(initial=0))

    def settle(self, joining: Sequence[tuple[Job, Ints]] = ()) -> list[Job]:
        """Rows that have ended leave, requests of prefilled jobs join; returns the jobs without rows left.

        joining: jobs and which of their requests, all alive.
        """
        living = np.flatnonzero(self.book.alive(self.rows.name))
        ended = np.delete(self.rows.blocks, living, axis=0)
        self.pool.give_blocks(ended[ended >= 0])
        self.rows = self.rows.pick(living)
        if joining:
            self._join(joining)
        used, self.rows.job = np.unique(self.rows.job, return_inverse=True)
        without = [job for i, job in enumerate(self.jobs) if i not in set(used.tolist())]
        self.jobs = [self.jobs[i] for i in used]
        if self.num_rows:
            self._plan = self._make_plan() if joining else self._plan.keep(living)
            self._arrange()
        return without

    def _join(self, joining: Sequence[tuple[Job, Ints]]) -> None:
        parts = [self.rows]
        for job, requests in joining:
            if job not in self.jobs:
                self.jobs.append(job)
            parts.append(self._rows_of(job, requests))
        rows = _Rows.joined(parts)
        self.rows = rows.pick(np.lexsort((rows.segment, rows.job)))

    def _rows_of(self, job: Job, requests: Ints) -> _Rows:
        capacity = job.limit[requests] - 1
        counts = -(-capacity // BLOCK)
        blocks = np.full((len(requests), int(counts.max())), -1, dtype=np.int64)
        blocks[np.arange(blocks.shape[1]) < counts[:, None]] = self.pool.take_blocks(int(counts.sum()))
        return _Rows(
            name=job.rows[requests],
            job=np.full(len(requests), self.jobs.index(job)),
            segment=job.segment[requests],
            key=job.key[requests],
            prefix_length=job.prefix_lengths[requests],
            capacity=capacity,
            blocks=blocks,
        )

    def _arrange(self) -> None:
        """What the device needs until the next change."""
        rows, book = self.rows, self.book
        lengths = book.lengths[rows.name]

        def move(array: Ints) -> Tensor:
            return on_device(array, self.device)

        self._keys, self._begins = move(rows.key), lengths
        self._prefix_length, self._capacity = move(rows.prefix_length), move(rows.capacity)
        self._blocks = move(rows.blocks)
        # what a step reads and writes in place, so that a captured one goes on where the last one ended
        self._last = move(book.tokens[rows.name, lengths - 1].astype(np.int64))
        self._logprobs = torch.zeros(len(lengths), device=self.device)
        self._tail = move(lengths - 1)  # tokens of each row whose keys and values are in the pool
        self._uniforms = uniforms(self._keys, move(lengths), _UNIFORMS_AHEAD)
        self._drawn = torch.zeros(1, dtype=torch.int64, device=self.device)
        self._steps = 0
        self._graph = None
        self._read = int(self._plan.segments[:, 1].sum())
        self._own_tokens, self._above = int((lengths - 1).sum()), int(rows.prefix_length.sum())

    def _make_plan(self) -> DecodePlan:
        """The jobs' segments side by side: each with the slots where it lies and the rows below it."""
        forests = [job.forest for job in self.jobs]
        slots = [job.slots for job in self.jobs if job.slots is not None]
        offsets = np.cumsum([0, *(forest.num_segments for forest in forests)])
        per_segment = np.bincount(offsets[self.rows.job] + self.rows.segment, minlength=offsets[-1])
        before = np.concatenate(([0], np.cumsum(per_segment)))
        stops = np.concatenate([f.stops + offset for f, offset in zip(forests, offsets, strict=False)])
        starts = np.concatenate([own[f.starts[:-1]] for f, own in zip(forests, slots, strict=True)])
        lengths = np.concatenate([np.diff(f.starts) for f in forests])
        return DecodePlan.make(
            np.stack((starts, lengths, before[:-1], before[stops]), 1),
            np.concatenate([f.depths[f.starts[:-1]] for f in forests]),
            self.rows.prefix_length,
            on_device(self.rows.blocks.astype(np.int32), self.device),
            block_size=BLOCK,
        )

    def step(self, decoder: Decoder) -> None:
        """One token of every row, captured as a CUDA graph where the same rows have steps enough to go."""
        if self._steps and self._steps % _UNIFORMS_AHEAD == 0:
            starts = on_device(self._begins + self._steps, self.device)
            self._uniforms.copy_(uniforms(self._keys, starts, _UNIFORMS_AHEAD))
            self._drawn.zero_()
        if self._graph is not None:
            self._graph.replay()
        else:
            self._advance(decoder)
            if decoder.capturable and self.tokens_to_go >= _WORTH_CAPTURING:
                self._graph = captured(lambda: self._advance(decoder), self.device)
        self._steps += 1
        self._new.append((self._last.clone(), self._logprobs.clone()))
        self._own_tokens += self.num_rows
        self.stats.kv_tokens_read += self._read + self._own_tokens
        self.stats.kv_tokens_asked += self._above + self._own_tokens

    def _advance(self, decoder: Decoder) -> None:
        """Nothing here depends on the host, and all that outlives it is written in place."""
        # a row that has ended writes over its last token again and again, nobody reads it
        at = torch.minimum(self._tail, self._capacity - 1)
        self._slots = self._blocks.gather(1, (at // BLOCK)[:, None])[:, 0] + at % BLOCK
        self._tail_lengths = (at + 1).int()
        logits = decoder.logits(self._last, self._prefix_length + at, self)
        ids, logprobs = draw(logits, self._uniforms.index_select(1, self._drawn)[:, 0], self.sampling)
        self._last.copy_(ids)
        self._logprobs.copy_(logprobs)
        self._tail.copy_(at + 1)
        self._drawn += 1

    def attend(self, query: Tensor, key: Tensor, value: Tensor, how: AttentionLayer) -> Tensor:
        keys, values = self.pool.write(how.layer, self._slots, key, value)
        return tree_decode(
            query, keys, values, self._plan, self._tail_lengths,
            scaling=how.scaling, softcap=how.softcap, window=how.window,
        )  # fmt: skip

    def look(self) -> list[Finished]:
        """Write down the tokens since the last look; returns the rows that ended with them.

        The only place where the host waits for the device.
        """
        if not self._new:
            return []
        ids = torch.stack([ids for ids, _ in self._new], 1).cpu().numpy()
        logprobs = torch.stack([logprobs for _, logprobs in self._new], 1).cpu().numpy()
        self._new = []
        return self.book.record(self.rows.name, ids, logprobs)
