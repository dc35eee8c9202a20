"""The decode batch: requests that decode together, with shared prefixes (trunks) and own tails."""

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
from fastrl.engine.tree.outputs import FinishedRequest, RequestOutputs
from fastrl.engine.tree.request_tree import RequestTree
from fastrl.ops import DecodePlan, tree_decode
from fastrl.types import SamplingParams

_UNIFORMS_AHEAD = 32
_WORTH_CAPTURING = 16
"""Remaining steps from which a CUDA graph pays off; capturing one costs about two steps."""


_capturing = threading.Lock()


def captured(work: Callable[[], None], device: torch.device) -> torch.cuda.CUDAGraph:
    """Capture a CUDA graph of `work` on this device.

    A lock serialises captures by engines in other threads, and thread_local mode keeps the work of those
    threads from ending this capture.
    """
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    with _capturing, torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        work()
    return graph


@dataclass(slots=True)
class _RequestArrays:
    """Host arrays with one entry per request of the batch, sorted by (tree, segment)."""

    request_id: Ints
    tree: Ints
    """Index into the batch's trees."""
    segment: Ints
    """Segment of the tree's forest that ends the request's prefix."""
    key: Ints
    """Key of the request's random stream."""
    prefix_length: Ints
    followed: Ints
    """Sampled tokens that are part of the prefix."""
    capacity: Ints
    """Longest tail: sampled tokens that go through the model."""
    blocks: Ints
    """[requests, max blocks] first pool slot of each block of the tail; -1 after the last one."""

    def pick(self, chosen: Ints | NDArray[np.bool_]) -> _RequestArrays:
        return _RequestArrays(*(getattr(self, name)[chosen] for name in self.__slots__))

    @classmethod
    def joined(cls, parts: Sequence[_RequestArrays]) -> _RequestArrays:
        """Concatenate the parts."""
        widest = max(part.blocks.shape[1] for part in parts)
        for part in parts:
            missing = widest - part.blocks.shape[1]
            part.blocks = np.pad(part.blocks, ((0, 0), (0, missing)), constant_values=-1)
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__slots__))


class DecodeBatch:
    """Batch in which each step decodes one token of every request; ended requests stay until `rearrange`."""

    def __init__(
        self, pool: KVPool, outputs: RequestOutputs, sampling: SamplingParams, stats: EngineStats,
        device: torch.device,
    ) -> None:  # fmt: skip
        self.pool, self.outputs, self.sampling, self.device = pool, outputs, sampling, device
        self.stats = stats
        self.trees: list[RequestTree] = []
        self.requests = _RequestArrays(*(np.zeros(0, dtype=np.int64),) * 7, np.zeros((0, 0), dtype=np.int64))
        self._new: list[tuple[Tensor, Tensor]] = []
        self._plan: DecodePlan
        self._graph: torch.cuda.CUDAGraph | None = None

    @property
    def num_requests(self) -> int:
        """Requests in the batch, including ended ones."""
        return len(self.requests.request_id)

    @property
    def num_alive(self) -> int:
        return int(self.outputs.alive(self.requests.request_id).sum())

    @property
    def ended_blocks(self) -> int:
        """Blocks of ended requests, which `rearrange` frees."""
        return int((self.requests.blocks[~self.outputs.alive(self.requests.request_id)] >= 0).sum())

    @property
    def tokens_to_go(self) -> int:
        """Steps after which every request has reached its limit."""
        ids = self.requests.request_id
        left = self.outputs.limits - self.outputs.lengths
        return int(left[ids[self.outputs.alive(ids)]].max(initial=0))

    def rearrange(self, joining: Sequence[tuple[RequestTree, Ints]] = ()) -> list[RequestTree]:
        """Remove ended requests and add new ones; return the trees that have no request left.

        Args:
            joining: prefilled trees, and the indices of their requests to add, all alive.
        """
        living = np.flatnonzero(self.outputs.alive(self.requests.request_id))
        ended = np.delete(self.requests.blocks, living, axis=0)
        self.pool.give_blocks(ended[ended >= 0])
        self.requests = self.requests.pick(living)
        if joining:
            self._join(joining)
        used, self.requests.tree = np.unique(self.requests.tree, return_inverse=True)
        without = [tree for i, tree in enumerate(self.trees) if i not in set(used.tolist())]
        self.trees = [self.trees[i] for i in used]
        if self.num_requests:
            self._plan = self._make_plan() if joining else self._plan.keep(living)
            self._arrange()
        return without

    def _join(self, joining: Sequence[tuple[RequestTree, Ints]]) -> None:
        parts = [self.requests]
        for tree, requests in joining:
            if tree not in self.trees:
                self.trees.append(tree)
            parts.append(self._arrays_of(tree, requests))
        joined = _RequestArrays.joined(parts)
        self.requests = joined.pick(np.lexsort((joined.segment, joined.tree)))

    def _arrays_of(self, tree: RequestTree, requests: Ints) -> _RequestArrays:
        capacity = tree.tail_limit[requests]
        counts = -(-capacity // BLOCK)
        blocks = np.full((len(requests), int(counts.max())), -1, dtype=np.int64)
        blocks[np.arange(blocks.shape[1]) < counts[:, None]] = self.pool.take_blocks(int(counts.sum()))
        return _RequestArrays(
            request_id=tree.request_ids[requests],
            tree=np.full(len(requests), self.trees.index(tree)),
            segment=tree.segment[requests],
            key=tree.key[requests],
            prefix_length=tree.prefix_lengths[requests],
            followed=self.outputs.followed[tree.request_ids[requests]],
            capacity=capacity,
            blocks=blocks,
        )

    def _arrange(self) -> None:
        """Copy to the device everything that steps need until the next rearrangement."""
        requests, outputs = self.requests, self.outputs
        lengths = outputs.lengths[requests.request_id]

        def move(array: Ints) -> Tensor:
            return on_device(array, self.device)

        self._keys, self._begins = move(requests.key), lengths
        self._prefix_length, self._capacity = move(requests.prefix_length), move(requests.capacity)
        self._blocks = move(requests.blocks)
        # read and written in place, so that a captured graph continues from the last step
        self._last = move(outputs.tokens[requests.request_id, lengths - 1].astype(np.int64))
        self._logprobs = torch.zeros(len(lengths), device=self.device)
        tail = lengths - 1 - requests.followed
        self._tail = move(tail)  # tokens of each request whose keys and values are in the pool
        self._uniforms = uniforms(self._keys, move(lengths), _UNIFORMS_AHEAD)
        self._drawn = torch.zeros(1, dtype=torch.int64, device=self.device)
        self._steps = 0
        self._graph = None
        self._read = int(self._plan.segments[:, 1].sum())
        self._own_tokens, self._above = int(tail.sum()), int(requests.prefix_length.sum())

    def _make_plan(self) -> DecodePlan:
        """Return the decode plan of the trees' segments, with their pool slots and requests."""
        forests = [tree.forest for tree in self.trees]
        slots = [tree.slots for tree in self.trees if tree.slots is not None]
        offsets = np.cumsum([0, *(forest.num_segments for forest in forests)])
        per_segment = np.bincount(offsets[self.requests.tree] + self.requests.segment, minlength=offsets[-1])
        before = np.concatenate(([0], np.cumsum(per_segment)))
        stops = np.concatenate([f.stops + offset for f, offset in zip(forests, offsets, strict=False)])
        starts = np.concatenate([own[f.starts[:-1]] for f, own in zip(forests, slots, strict=True)])
        lengths = np.concatenate([np.diff(f.starts) for f in forests])
        return DecodePlan.make(
            np.stack((starts, lengths, before[:-1], before[stops]), 1),
            np.concatenate([f.depths[f.starts[:-1]] for f in forests]),
            self.requests.prefix_length,
            on_device(self.requests.blocks.astype(np.int32), self.device),
            block_size=BLOCK,
        )

    def step(self, decoder: Decoder) -> None:
        """Sample one token of every request, with a CUDA graph if enough steps remain."""
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
        self._own_tokens += self.num_requests
        self.stats.kv_tokens_read += self._read + self._own_tokens
        self.stats.kv_tokens_asked += self._above + self._own_tokens

    def _advance(self, decoder: Decoder) -> None:
        """Run one step without host syncs; all state is written in place, as a CUDA graph needs."""
        # an ended request overwrites its last slot, which nothing reads
        at = torch.minimum(self._tail, self._capacity - 1)
        self._slots = self._blocks.gather(1, (at // BLOCK)[:, None])[:, 0] + at % BLOCK
        self._tail_lengths = (at + 1).int()
        logits = decoder.logits(self._last, self._prefix_length + at, self)
        ids, logprobs = draw(logits, self._uniforms.index_select(1, self._drawn)[:, 0], self.sampling)
        self._last.copy_(ids)
        self._logprobs.copy_(logprobs)
        self._tail.copy_(at + 1)
        self._drawn += 1

    def attend(self, query: Tensor, key: Tensor, value: Tensor, layer: AttentionLayer) -> Tensor:
        keys, values = self.pool.write(layer.layer_idx, self._slots, key, value)
        return tree_decode(
            query, keys, values, self._plan, self._tail_lengths,
            scaling=layer.scaling, softcap=layer.softcap, window=layer.window,
        )  # fmt: skip

    def collect_tokens(self) -> list[FinishedRequest]:
        """Copy the tokens sampled since the last call to the outputs; return the requests that have ended.

        This is the only host sync of decoding.
        """
        if not self._new:
            return []
        ids = torch.stack([ids for ids, _ in self._new], 1).cpu().numpy()
        logprobs = torch.stack([logprobs for _, logprobs in self._new], 1).cpu().numpy()
        self._new = []
        return self.outputs.record(self.requests.request_id, ids, logprobs)
