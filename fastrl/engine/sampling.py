"""Sampling of tokens with random numbers that depend only on the request, not on the batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastrl.ops import sample_tokens
from fastrl.types import SamplingParams

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB


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
    """Return one token per request and its log-prob; see `fastrl.ops.sample_tokens`."""
    return sample_tokens(
        logits, u, temperature=sampling.temperature, top_k=sampling.top_k, top_p=sampling.top_p, source=source
    )
