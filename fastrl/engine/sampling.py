"""Sampling of tokens with random numbers that depend only on the request, not on the batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastrl.types import SamplingParams

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_DRAW_ELEMENTS = 1 << 25
"""Logits processed at once; bounds the float64 workspace to 256 MB."""


def _signed(value: int) -> int:
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


def _mix_int(z: int) -> int:
    z = ((z ^ (z >> 30)) * _MIX_1) & _MASK
    z = ((z ^ (z >> 27)) * _MIX_2) & _MASK
    return z ^ (z >> 31)


def _shift(z: Tensor, bits: int) -> Tensor:
    return (z >> bits) & ((1 << (64 - bits)) - 1)  # torch's >> is arithmetic; this is logical


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * _signed(_MIX_1)
    z = (z ^ _shift(z, 27)) * _signed(_MIX_2)
    return z ^ _shift(z, 31)


def request_keys(seeds: Sequence[int], samples: Sequence[int]) -> list[int]:
    """Return the key of each request's random stream, a function of (seed, sample index); int64 values."""
    return [
        _signed(_mix_int(_mix_int(seed & _MASK) + _GOLDEN * (sample + 1)))
        for seed, sample in zip(seeds, samples, strict=True)
    ]


def uniforms(keys: Tensor, start: int | Tensor, count: int) -> Tensor:
    """Return the random numbers of completion positions [start, start + count) of every request.

        u[r, i] = splitmix64(keys[r], start[r] + i) >> 11, times 2^-53

    Args:
        keys: int64 [R], from `request_keys`.
        start: one for all, or int64 [R].
    Returns: float64 [R, count] in [0, 1), bitwise equal on every device.
    Source: splitmix64, Steele et al. 2014.
    """
    first = start[:, None] if isinstance(start, Tensor) else start
    steps = (first + torch.arange(1, count + 1, device=keys.device)) * _signed(_GOLDEN)
    return _shift(_mix(keys[:, None] + steps), 11).double() * 2.0**-53


def draw(
    logits: Tensor, u: Tensor, sampling: SamplingParams, source: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Sample one token per request by inverting the cumulative distribution; at temperature 0 the argmax.

        p = softmax(keep_likely(logits / temperature)),   token = first i with p[0] + ... + p[i] > u

    Args:
        logits: [E, V], any float type.
        u: float64 [R] in [0, 1).
        source: int64 [R], request r samples from logits[source[r]]; None: from logits[r].
    Returns: token ids int64 [R], and their log-probs fp32 [R] under p (at temperature 0: under
        softmax(logits)).
    Numerics: softmax in fp32, sums in float64.
    """
    num_requests = u.shape[0]
    step = max(1, _DRAW_ELEMENTS // logits.shape[-1])
    parts = []
    for a in range(0, num_requests, step):
        b = min(a + step, num_requests)
        chunk = logits[a:b] if source is None else logits[source[a:b]]
        parts.append(_draw_rows(chunk.float(), u[a:b], sampling))
    if len(parts) == 1:
        return parts[0]
    return torch.cat([ids for ids, _ in parts]), torch.cat([logprobs for _, logprobs in parts])


def _draw_rows(logits: Tensor, u: Tensor, sampling: SamplingParams) -> tuple[Tensor, Tensor]:
    if sampling.temperature == 0:
        logprobs = logits.log_softmax(-1)
        ids = logits.argmax(-1, keepdim=True)
        return ids[:, 0], logprobs.gather(-1, ids)[:, 0]
    scaled = logits / sampling.temperature if sampling.temperature != 1 else logits
    logprobs = keep_likely(scaled, sampling.top_k, sampling.top_p).log_softmax(-1)
    cumulative = logprobs.exp().cumsum(-1, dtype=torch.float64)
    total = cumulative[:, -1]
    # strictly below the total, so that a token of probability 0 is never chosen
    target = torch.minimum(u * total, torch.nextafter(total, torch.zeros_like(total)))
    # NaN logits: searchsorted runs past the end; take the last token, whose NaN log-prob is caught later
    ids = torch.searchsorted(cumulative, target[:, None], right=True).clamp_(max=logits.shape[-1] - 1)
    return ids[:, 0], logprobs.gather(-1, ids)[:, 0]


def keep_likely(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Set logits to -inf outside the top k, and then outside the smallest set of tokens of mass >= top_p.

    Tokens that tie with the k-th are kept; at the edge of top-p the smaller token id wins a tie.
    """
    if 0 < top_k < logits.shape[-1]:
        kth = logits.topk(top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if top_p < 1:
        ranked, order = logits.sort(dim=-1, descending=True, stable=True)
        mass = ranked.softmax(-1, dtype=torch.float64)
        outside = mass.cumsum(-1) - mass >= top_p
        outside[:, 0] = False
        logits = logits.masked_fill(torch.zeros_like(outside).scatter_(-1, order, outside), -torch.inf)
    return logits
