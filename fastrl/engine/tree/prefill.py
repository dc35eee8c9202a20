"""Prefill: spans of tokens packed into one forward pass, each attending to its own prefix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastrl.engine.tree.attention import AttentionLayer
from fastrl.engine.tree.kv_pool import Ints, KVPool, on_device
from fastrl.ops import PrefixForest

_PASS_TOKENS = 8192
_PASS_SCORES = 1 << 25
"""Query-key pairs per pass; bounds the masks to 128 MB in fp32."""
_SMALLEST_PIECE = 64
_PADDING_ALLOWED = 1.5


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive tokens [start, stop) of the packed stream, on one path of a tree."""

    start: int
    stop: int
    context: Ints
    """Pool slots of the whole path up to the span's last token, including the span."""


def spans_of(forest: PrefixForest, slots: Ints, start: int) -> list[Span]:
    """Return the forest's tokens as spans of the packed stream.

    A segment and its first child make one span.

    Args:
        slots: pool slot of each forest slot.
        start: index in the stream of the forest's first token.
    """
    # a segment begins a span unless it is the first child of the segment before it
    heads = np.flatnonzero(np.concatenate(([True], forest.parents[1:] != np.arange(forest.num_segments - 1))))
    bounds = np.concatenate((forest.starts[heads], [forest.num_slots]))
    paths: list[Ints] = []
    spans = []
    for head, first, stop in zip(heads.tolist(), bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        own = np.arange(first, stop)
        parent = int(forest.parents[head])
        if parent >= 0:
            above = paths[int(np.searchsorted(heads, parent, side="right")) - 1]
            own = np.concatenate((above[: forest.depths[first]], own))
        paths.append(own)
        spans.append(Span(start + first, start + stop, slots[own]))
    return spans


def passes(spans: Sequence[Span]) -> Iterator[list[Span]]:
    """Split consecutive spans into forward passes of bounded size."""
    current: list[Span] = []
    tokens = scores = 0
    for span in spans:
        start = span.start
        while start < span.stop:
            below = span.stop - start
            room = min(_PASS_TOKENS - tokens, (_PASS_SCORES - scores) // len(span.context))
            if room < min(below, _SMALLEST_PIECE) and current:
                yield current
                current, tokens, scores = [], 0, 0
                continue
            stop = start + min(below, max(room, _SMALLEST_PIECE))
            piece = Span(start, stop, span.context[: len(span.context) - (span.stop - stop)])
            current.append(piece)
            tokens += stop - start
            scores += (stop - start) * len(piece.context)
            start = stop
    if current:
        yield current


@dataclass(slots=True)
class _Bucket:
    """Spans of similar size, padded to one shape."""

    queries: Tensor
    """[B, Lq] index of each token in the pass."""
    context: Tensor
    """[B, Lk] pool slots of the keys."""
    offsets: Tensor
    """[B] number of tokens before the span on its path."""
    valid: Tensor
    """[N] flat indices in [B, Lq] that are not padding."""
    targets: Tensor
    """[N] index in the pass of the token at each of them."""
    plain: bool
    """True without padding and prefixes: plain causal attention."""
    masks: dict[int | None, Tensor] = field(default_factory=dict)


class PrefillBatch:
    """One forward pass over spans, which writes keys and values to the spans' slots of `pool`."""

    def __init__(self, pool: KVPool, spans: Sequence[Span], device: torch.device) -> None:
        self.pool = pool
        self.first = spans[0].start
        self.num_tokens = spans[-1].stop - self.first
        own = np.concatenate([span.context[span.start - span.stop :] for span in spans])
        self.slots = on_device(own, device)
        self.buckets = [self._bucket(group, device) for group in _similar(spans)]

    def _bucket(self, spans: Sequence[Span], device: torch.device) -> _Bucket:
        longest_query = max(s.stop - s.start for s in spans)
        longest_context = max(len(s.context) for s in spans)
        queries = np.zeros((len(spans), longest_query), dtype=np.int64)
        context = np.empty((len(spans), longest_context), dtype=np.int64)
        valid, targets = [], []
        for i, span in enumerate(spans):
            tokens = np.arange(span.start, span.stop) - self.first
            queries[i, : len(tokens)] = tokens
            context[i, : len(span.context)] = span.context
            context[i, len(span.context) :] = span.context[0]
            valid.append(i * longest_query + np.arange(len(tokens)))
            targets.append(tokens)
        offsets = np.asarray([len(s.context) - (s.stop - s.start) for s in spans])
        plain = not offsets.any() and all(s.stop - s.start == longest_query for s in spans)
        return _Bucket(
            queries=torch.from_numpy(queries).to(device),
            context=torch.from_numpy(context).to(device),
            offsets=torch.from_numpy(offsets).to(device),
            valid=torch.from_numpy(np.concatenate(valid)).to(device),
            targets=torch.from_numpy(np.concatenate(targets)).to(device),
            plain=plain,
        )

    def attend(self, query: Tensor, key: Tensor, value: Tensor, layer: AttentionLayer) -> Tensor:
        all_keys, all_values = self.pool.write(layer.layer_idx, self.slots, key, value)
        out = query.new_empty((self.num_tokens, query.shape[1], value.shape[2]))
        for bucket in self.buckets:
            q = query[bucket.queries].transpose(1, 2)
            k = all_keys[bucket.context].transpose(1, 2)
            v = all_values[bucket.context].transpose(1, 2)
            o = _attention(q, k, v, _mask(bucket, layer.window, q.dtype), layer).transpose(1, 2)
            out[bucket.targets] = o.reshape(-1, *o.shape[2:])[bucket.valid]
        return out


def _similar(spans: Sequence[Span]) -> list[list[Span]]:
    """Group spans so that padding grows the score matrices by at most _PADDING_ALLOWED."""
    groups: list[list[Span]] = []
    own = widest = 0
    for span in sorted(spans, key=lambda s: (len(s.context), s.stop - s.start)):
        group = groups[-1] if groups else []
        size = (span.stop - span.start) * len(span.context)
        padded = (len(group) + 1) * max(widest, span.stop - span.start) * len(span.context)
        if group and padded <= max(_PADDING_ALLOWED * (own + size), 1 << 16):
            group.append(span)
            own, widest = own + size, max(widest, span.stop - span.start)
        else:
            groups.append([span])
            own, widest = size, span.stop - span.start
    return groups


def _mask(bucket: _Bucket, window: int | None, dtype: torch.dtype) -> Tensor | None:
    """Return the additive mask [B, 1, Lq, Lk], 0 or -inf; None: plain causal attention."""
    longest_query, longest_context = bucket.queries.shape[1], bucket.context.shape[1]
    if window is not None and longest_context <= window:
        window = None
    if bucket.plain and window is None:
        return None
    if window not in bucket.masks:
        device = bucket.queries.device
        at = bucket.offsets[:, None, None] + torch.arange(longest_query, device=device)[:, None]
        distance = at - torch.arange(longest_context, device=device)
        hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
        bucket.masks[window] = torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(
            hidden, -torch.inf
        )[:, None]
    return bucket.masks[window]


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, layer: AttentionLayer) -> Tensor:
    """Return softmax(softcap(q k^T scaling) + mask) v for q [B, Hq, Lq, K], k and v [B, Hkv, Lk, K]."""
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    if layer.softcap is None:
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=layer.scaling
        )
    scores = (q @ k.transpose(-1, -2)) * layer.scaling
    scores = layer.softcap * torch.tanh(scores / layer.softcap)
    if mask is None:
        size = scores.shape[-1]
        mask = scores.new_full((size, size), -torch.inf).triu_(1)
    return (scores + mask).softmax(-1, dtype=torch.float32).to(v.dtype) @ v
