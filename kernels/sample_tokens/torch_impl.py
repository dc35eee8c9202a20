"""sample_tokens in PyTorch: softmax in fp32, sums in float64, in chunks of rows."""

from __future__ import annotations

import torch
from torch import Tensor

from fastrl.kernels.sample_tokens.reference import below_total, keep_likely

_CHUNK_ELEMENTS = 1 << 25
"""Logits per chunk; bounds the float64 workspace to 256 MB."""


def sample_tokens_torch(
    logits: Tensor, uniforms: Tensor, temperature: float, top_k: int, top_p: float, source: Tensor | None
) -> tuple[Tensor, Tensor]:
    requests = len(uniforms)
    step = max(1, _CHUNK_ELEMENTS // logits.shape[-1])
    parts = []
    for begin in range(0, requests, step):
        stop = min(begin + step, requests)
        rows = logits[begin:stop] if source is None else logits[source[begin:stop]]
        parts.append(_sample(rows.float(), uniforms[begin:stop], temperature, top_k, top_p))
    if len(parts) == 1:
        return parts[0]
    return torch.cat([ids for ids, _ in parts]), torch.cat([logprobs for _, logprobs in parts])


def _sample(
    logits: Tensor, uniforms: Tensor, temperature: float, top_k: int, top_p: float
) -> tuple[Tensor, Tensor]:
    if temperature == 0:
        ids = logits.argmax(-1, keepdim=True)
        return ids[:, 0], logits.log_softmax(-1).gather(-1, ids)[:, 0]
    scaled = logits / temperature if temperature != 1 else logits
    logprobs = keep_likely(scaled, top_k, top_p).log_softmax(-1)
    cumulative = logprobs.exp().cumsum(-1, dtype=torch.float64)
    target = below_total(uniforms, cumulative[:, -1])
    # searchsorted finds no token if the sum is NaN: take the last one; its log-prob is NaN
    ids = torch.searchsorted(cumulative, target[:, None], right=True).clamp_(max=logits.shape[-1] - 1)
    return ids[:, 0], logprobs.gather(-1, ids)[:, 0]
