"""The scheduler: allocates and prefills trees, and adds their requests to the decode batch as they fit."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from fastrl.engine.protocol import EngineStats
from fastrl.engine.sampling import draw, uniforms
from fastrl.engine.tree.decode_batch import DecodeBatch
from fastrl.engine.tree.decoder import Decoder
from fastrl.engine.tree.kv_pool import Ints, KVPool, blocks_of, on_device
from fastrl.engine.tree.outputs import FinishedRequest, RequestOutputs
from fastrl.engine.tree.prefill import PrefillBatch, Span, passes
from fastrl.engine.tree.prefill_tokens import PrefillStream
from fastrl.engine.tree.request_tree import RequestTree
from fastrl.engine.tree.stopping import StopRule
from fastrl.types import SamplingParams

_STEPS_PER_COLLECT = {"cpu": 2}
_STEPS_PER_COLLECT_ON_DEVICE = 8
_JOIN_AT = 0.25
"""While requests decode, new ones join once this share of the pool is free, for few, large prefills."""
_SHRINK_AT = 0.85
"""Ended requests are removed once at most this share of the batch is alive."""


class Scheduler:
    """Runs all requests of request trees within the pool."""

    def __init__(
        self, decoder: Decoder, sampling: SamplingParams, stop: StopRule, pool: KVPool, stats: EngineStats,
        score_temperature: float = 1.0,
    ) -> None:  # fmt: skip
        self.decoder, self.sampling, self.stop, self.stats = decoder, sampling, stop, stats
        self.score_temperature = score_temperature
        self.pool = pool
        self.device = decoder.device
        self.steps_per_collect = _STEPS_PER_COLLECT.get(self.device.type, _STEPS_PER_COLLECT_ON_DEVICE)

    def run(self, trees: Sequence[RequestTree]) -> list[FinishedRequest]:
        """Run all requests and return them in order of completion; their ids must be 0 .. N-1."""
        if not trees:
            return []
        ids = np.concatenate([tree.request_ids for tree in trees])
        limits = np.zeros(len(ids), dtype=np.int64)
        limits[ids] = np.concatenate([tree.limit for tree in trees])
        self.outputs = RequestOutputs(limits, self.stop, self.steps_per_collect)
        self.batch = DecodeBatch(self.pool, self.outputs, self.sampling, self.stats, self.device)
        self.finished: list[FinishedRequest] = []
        # trees of similar size are prefilled together, with little padding
        self.waiting = deque(sorted(trees, key=lambda tree: (tree.prompt_len, tree.forest.num_slots)))
        done = False
        try:
            while self.waiting or self.batch.num_requests:
                self._time("prefill_ms", self._admit)
                self._time("decode_ms", self._decode)
            done = True
        finally:
            if not done:  # after an error nothing holds blocks any more
                self.pool.free()
        return self.finished

    def _time(self, name: str, work: Callable[[], None]) -> None:
        began = time.perf_counter()
        work()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        setattr(self.stats, name, getattr(self.stats, name) + (time.perf_counter() - began) * 1e3)

    def _admit(self) -> None:
        """Remove ended requests and add waiting ones that fit, if either is worthwhile."""
        alive, total = self.batch.num_alive, self.batch.num_requests
        free = self.pool.free_blocks + self.batch.ended_blocks
        joins = bool(self.waiting) and (not alive or free >= _JOIN_AT * self.pool.num_blocks)
        if not joins and (alive == total or alive > _SHRINK_AT * total):
            return
        self._release(self.batch.rearrange())
        if not joins:
            return
        chosen = self._choose()
        if not chosen and not self.batch.num_requests:
            raise RuntimeError("[engine] scheduler: expected room for a request while none runs, got none")
        fresh = [tree for tree, _ in chosen if not tree.prefilled]
        if fresh:
            self._prefill(fresh)
        joining = [
            (tree, requests[self.outputs.alive(tree.request_ids[requests])]) for tree, requests in chosen
        ]
        self._release(self.batch.rearrange([(tree, living) for tree, living in joining if len(living)]))
        self._release([t for t, living in joining if not len(living) and t not in self.batch.trees])

    def _choose(self) -> list[tuple[RequestTree, Ints]]:
        """Allocate trees from the front of the queue; return them and the indices of the requests to start.

        A tree starts with all its requests. If they need more than the pool, it starts with those that fit,
        once nothing else runs.
        """
        chosen: list[tuple[RequestTree, Ints]] = []
        reserved = 0
        while self.waiting:
            tree = self.waiting[0]
            first = not chosen and not self.batch.num_requests
            if not self._allocate(tree, reserved, whole=not first):
                break
            fits = np.cumsum(tree.tail_blocks[tree.started :]) <= self.pool.free_blocks - reserved
            count = int(fits.sum())
            if len(tree.request_ids) and not count:
                break
            requests = np.arange(tree.started, tree.started + count)
            tree.started += count
            reserved += int(tree.tail_blocks[requests].sum())
            chosen.append((tree, requests))
            if tree.started < len(tree.request_ids):
                break
            self.waiting.popleft()
        return chosen

    def _allocate(self, tree: RequestTree, reserved: int, whole: bool) -> bool:
        """Allocate the tree's slots if it has none; return False if it does not fit.

        Args:
            reserved: free blocks that chosen requests will take.
            whole: all its requests must fit too, not only the first.
        """
        if tree.slots is not None:
            return True
        tails = tree.tail_blocks.sum() if whole else tree.tail_blocks[:1].sum()
        num_slots = tree.forest.num_slots
        if self.pool.free_blocks < blocks_of(num_slots) + reserved + int(tails):
            return False
        start = self.pool.take_trunk(num_slots)
        if start is None:
            return False
        tree.slots = np.arange(start, start + num_slots)
        return True

    def _release(self, trees: Iterable[RequestTree]) -> None:
        """Free the slots of trees without running or waiting requests."""
        for tree in trees:
            if tree.started == len(tree.request_ids) and tree.slots is not None:
                self.pool.give_trunk(int(tree.slots[0]), len(tree.slots))
                tree.slots = None

    def _prefill(self, trees: Sequence[RequestTree]) -> None:
        """Compute the trees' tokens and sample the first token of every request."""
        stream = PrefillStream(trees, self.device)
        u = uniforms(on_device(np.concatenate([tree.key for tree in trees]), self.device), 0, 1)[:, 0]
        ids = torch.empty(len(u), dtype=torch.int64, device=self.device)
        logprobs = torch.empty(len(u), device=self.device)
        for piece in passes(stream.spans):
            first, stop = piece[0].start, piece[-1].stop
            here = np.flatnonzero((stream.ends >= first) & (stream.ends < stop))
            ends, source = np.unique(stream.ends[here], return_inverse=True)
            logits = self._pass(stream, piece, ends - first)
            if len(here):
                requests = on_device(here, self.device)
                drawn = draw(logits, u[requests], self.sampling, on_device(source, self.device))
                ids[requests], logprobs[requests] = drawn
        stream.finish()
        for tree in trees:
            tree.prefilled = True
        self.stats.prefill_tokens += len(stream.tokens)
        numbers = np.concatenate([tree.request_ids for tree in trees])
        drawn_ids = ids.cpu().numpy()
        self._end(self.outputs.record(numbers, drawn_ids[:, None], logprobs[:, None].cpu().numpy()))
        if stream.keeps_hidden:
            at = self._follow(stream, numbers, drawn_ids)
            for tree, base in zip(trees, stream.bases, strict=True):
                tree.follow_to(at[: len(tree.request_ids)] - base)
                at = at[len(tree.request_ids) :]

    def _follow(self, stream: PrefillStream, numbers: Ints, last: Ints) -> Ints:
        """Draw tokens of requests for as long as the last one is the next of their tree.

        Returns: [requests] index in the stream of the token that each last one was drawn after.
        """
        keys = np.concatenate([tree.key for tree in stream.trees])
        at: Ints = stream.ends.copy()
        hidden = stream.hidden()
        going = np.flatnonzero(self.outputs.alive(numbers))
        while len(going):
            below = stream.next_tokens.find(at[going], last[going])
            going, below = going[below >= 0], below[below >= 0]
            if not len(going):
                break
            at[going] = below
            rows, source = np.unique(below, return_inverse=True)
            logits = self.decoder.head_logits(hidden[on_device(rows, self.device)])
            begins = on_device(self.outputs.lengths[numbers[going]], self.device)
            u = uniforms(on_device(keys[going], self.device), begins, 1)[:, 0]
            ids, logprobs = draw(logits, u, self.sampling, on_device(source, self.device))
            last[going] = ids.cpu().numpy()
            self.outputs.followed[numbers[going]] += 1
            self._end(self.outputs.record(numbers[going], last[going, None], logprobs[:, None].cpu().numpy()))
            going = going[self.outputs.alive(numbers[going])]
        return at

    def _pass(self, stream: PrefillStream, piece: Sequence[Span], wanted: Ints) -> Tensor:
        """Run one forward pass; return logits [len(wanted), V] of the tokens `wanted`."""
        part = slice(piece[0].start, piece[-1].stop)
        tokens, depths = stream.tokens[part], stream.depths[part]
        batch, keep = PrefillBatch(self.pool, piece, self.device), on_device(wanted, self.device)
        if not stream.scores and not stream.keeps_hidden:
            return self.decoder.logits(tokens, depths, batch, keep)
        hidden = self.decoder.hidden(tokens, depths, batch)
        stream.score(hidden, piece[0].start, self.decoder.head, self.score_temperature)
        stream.keep(hidden)
        return self.decoder.head_logits(hidden[keep])

    def _decode(self) -> None:
        """Run a few decode steps, then collect the sampled tokens."""
        for _ in range(min(self.steps_per_collect, self.batch.tokens_to_go)):
            self.batch.step(self.decoder)
        self._end(self.batch.collect_tokens())

    def _end(self, finished: Sequence[FinishedRequest]) -> None:
        """Keep and count requests that have ended."""
        self.finished += finished
        num_tokens = sum(len(request.token_ids) for request in finished)
        agreed = sum(int(self.outputs.followed[request.request_id]) for request in finished)
        self.stats.finished += len(finished)
        self.stats.generated_tokens += num_tokens
        self.stats.agreed_tokens += agreed
        self.stats.decode_tokens += num_tokens - len(finished) - agreed
