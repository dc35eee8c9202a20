"""Log-probabilities of given sequences, many in one forward pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fastrl.engine.decoder import Decoder
from fastrl.engine.kv_cache import PrefixKV
from fastrl.engine.prefill import PrefillBatch
from fastrl.engine.prefix_tree import Span
from fastrl.engine.protocol import Scores
from fastrl.ops import linear_logprob

_PASS_TOKENS = 8192


def score_sequences(
    decoder: Decoder, sequences: Sequence[Sequence[int]], temperature: float, max_batch_tokens: int
) -> list[Scores]:
    """Scores of every token given those before it; entry 0 of each is 0.

    Sequences of similar length share a pass, without padding between them.
    """
    scores = [_blank(len(sequence)) for sequence in sequences]
    budget = min(_PASS_TOKENS, max_batch_tokens)
    batch: list[int] = []
    tokens = 0
    for i in sorted(range(len(sequences)), key=lambda i: len(sequences[i])):
        if len(sequences[i]) < 2:
            continue
        if batch and tokens + len(sequences[i]) > budget:
            _score_batch(decoder, sequences, batch, temperature, scores)
            batch, tokens = [], 0
        batch.append(i)
        tokens += len(sequences[i])
    if batch:
        _score_batch(decoder, sequences, batch, temperature, scores)
    return scores


def _blank(length: int) -> Scores:
    return Scores([0.0] * length, [0.0] * length, [0.0] * length)


def _score_batch(
    decoder: Decoder, sequences: Sequence[Sequence[int]], batch: Sequence[int], temperature: float,
    scores: list[Scores],
) -> None:  # fmt: skip
    """Fill scores[i] for every i of the batch."""
    lengths = [len(sequences[i]) for i in batch]
    ends = np.cumsum(lengths)
    slots = [np.arange(end - length, end) for end, length in zip(ends, lengths, strict=True)]
    spans = [Span(int(own[0]), int(own[-1]) + 1, own) for own in slots]
    device = decoder.device
    ids = torch.tensor([token for i in batch for token in sequences[i]], device=device)
    positions = torch.from_numpy(np.concatenate([np.arange(length) for length in lengths])).to(device)
    hidden = decoder.hidden(ids, positions, PrefillBatch(PrefixKV(int(ends[-1])), spans, device))
    rows = torch.from_numpy(np.concatenate([own[:-1] for own in slots])).to(device)
    out = linear_logprob(
        hidden[rows], decoder.head.weight, ids[rows + 1], temperature=temperature, **decoder.head.options()
    )
    columns: list[Tensor] = [out.logprobs, out.entropy, out.self_certainty]
    values = torch.stack(columns).cpu().numpy()
    end = 0
    for i, length in zip(batch, lengths, strict=True):
        begin, end = end, end + length - 1
        for name, row in zip(("logprobs", "entropy", "self_certainty"), values, strict=True):
            getattr(scores[i], name)[1:] = row[begin:end].tolist()
