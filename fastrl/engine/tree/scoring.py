"""Scoring of given sequences in packed forward passes, with common prefixes computed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from fastrl.engine.protocol import EngineStats, Scores
from fastrl.engine.tree.decoder import Decoder
from fastrl.engine.tree.kv_pool import Ints, KVPool, on_device
from fastrl.engine.tree.prefill import PrefillBatch, passes, spans_of
from fastrl.ops import PrefixForest, linear_logprob, prefix_tree

_BATCH_TOKENS = 32768


def score_sequences(
    decoder: Decoder, sequences: Sequence[Sequence[int]], temperature: float, starts: Sequence[int] | None,
    stats: EngineStats,
) -> list[Scores]:  # fmt: skip
    """Return the scores of tokens t >= max(1, starts[i]) given those before; the others are 0."""
    first = [1] * len(sequences) if starts is None else [max(1, start) for start in starts]
    scores = [Scores(*([0.0] * len(sequence) for _ in range(3))) for sequence in sequences]
    for batch in _batches(sequences):
        forest = prefix_tree([sequences[i] for i in batch])
        ends = np.cumsum([len(sequences[i]) for i in batch])
        wanted = [
            forest.slots[end - len(sequences[i]) + first[i] : end] for i, end in zip(batch, ends, strict=True)
        ]
        values = _score_forest(decoder, forest, np.unique(np.concatenate(wanted)), temperature)
        stats.scored_tokens += forest.num_slots
        for i, slots in zip(batch, wanted, strict=True):
            for name, column in zip(("logprobs", "entropy", "self_certainty"), values, strict=True):
                getattr(scores[i], name)[first[i] :] = column[slots].tolist()
    return scores


def _batches(sequences: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Yield batches of sequences in lexicographic order, so that common prefixes are adjacent."""
    batch: list[int] = []
    tokens = 0
    for i in sorted(range(len(sequences)), key=lambda i: tuple(sequences[i])):
        if len(sequences[i]) < 2:
            continue
        if batch and tokens + len(sequences[i]) > _BATCH_TOKENS:
            yield batch
            batch, tokens = [], 0
        batch.append(i)
        tokens += len(sequences[i])
    if batch:
        yield batch


def _score_forest(
    decoder: Decoder, forest: PrefixForest, wanted: Ints, temperature: float
) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Return log-prob, entropy and self-certainty [3, slots] of the wanted slots' tokens; 0 elsewhere."""
    device, num_slots = decoder.device, forest.num_slots
    values = np.zeros((3, num_slots), dtype=np.float32)
    if not len(wanted):
        return values
    tokens, depths = on_device(forest.tokens, device), on_device(forest.depths, device)
    pool, spans = KVPool(num_slots), spans_of(forest, np.arange(num_slots), 0)
    parts = []
    for piece in passes(spans):
        first, stop = piece[0].start, piece[-1].stop
        batch = PrefillBatch(pool, piece, device)
        parts.append(decoder.hidden(tokens[first:stop], depths[first:stop], batch))
    hidden = torch.cat(parts)
    above = slots_above(forest)
    out = linear_logprob(
        hidden[on_device(above[wanted], device)], decoder.head.weight, tokens[on_device(wanted, device)],
        temperature=temperature, **decoder.head.options(),
    )  # fmt: skip
    columns: list[Tensor] = [out.logprobs, out.entropy, out.self_certainty]
    values[:, wanted] = torch.stack(columns).cpu().numpy()
    return values


def slots_above(forest: PrefixForest) -> Ints:
    """Return the parent slot of each slot, [slots]; undefined for a root's first token."""
    above: Ints = np.arange(-1, forest.num_slots - 1)
    below = forest.parents >= 0  # the parent of a segment's first token is its parent segment's last token
    above[forest.starts[:-1][below]] = forest.starts[forest.parents[below] + 1] - 1
    return above
