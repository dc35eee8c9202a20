"""Reference of sample_tokens in float64."""

from __future__ import annotations

import torch
from torch import Tensor


def sample_tokens_reference(
    logits: Tensor, uniforms: Tensor, temperature: float, top_k: int, top_p: float, source: Tensor | None
) -> tuple[Tensor, Tensor]:
    rows = (logits if source is None else logits[source]).double()
    if temperature == 0:
        ids = rows.argmax(-1, keepdim=True)
        return ids[:, 0], rows.log_softmax(-1).gather(-1, ids)[:, 0].float()
    logprobs = keep_likely(rows / temperature, top_k, top_p).log_softmax(-1)
    cumulative = logprobs.exp().cumsum(-1)
    target = below_total(uniforms, cumulative[:, -1])
    # searchsorted finds no token if the sum is NaN: take the last one; its log-prob is NaN
    ids = torch.searchsorted(cumulative, target[:, None], right=True).clamp_(max=logits.shape[-1] - 1)
    return ids[:, 0], logprobs.gather(-1, ids)[:, 0].float()


def below_total(uniforms: Tensor, total: Tensor) -> Tensor:
    """Return u * total, less than total even after rounding, so that no token of probability 0 is drawn."""
    return torch.minimum(uniforms * total, torch.nextafter(total, torch.zeros_like(total)))


def keep_likely(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Set logits to -inf outside the top-k, then outside the smallest set of mass >= top_p of what is left.

    Tokens that tie with the k-th are kept; ties at top-p's edge go to the smaller token id.
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
