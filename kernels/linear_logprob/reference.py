"""Definition of linear_logprob: all logits at once, and autograd."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastrl.kernels._head import Head
from fastrl.kernels._outputs import LogprobOutput


def linear_logprob_reference(hidden: Tensor, ids: Tensor, head: Head) -> LogprobOutput:
    return score_logits(raw_logits(hidden, head), ids, head)


def raw_logits(hidden: Tensor, head: Head) -> Tensor:
    """Return raw logits [T, V] in float32 (float64 like hidden); the weight is rounded to hidden's dtype."""
    accurate = torch.promote_types(hidden.dtype, torch.float32)
    weight = head.weight.to(accurate)
    # only the value is rounded; the gradient passes through
    weight = weight + (weight.to(hidden.dtype).to(accurate) - weight).detach()
    return hidden.to(accurate) @ weight.T


def score_logits(raw: Tensor, ids: Tensor, head: Head) -> LogprobOutput:
    """Return the scores of raw logits; head.weight is not read."""
    logits = scale_logits(raw, head)
    all_logprobs = torch.log_softmax(logits, dim=-1)
    with torch.no_grad():
        self_certainty = -all_logprobs.mean(-1) - math.log(logits.shape[1])
        top1 = logits.gather(-1, ids[:, None])[:, 0] >= logits.max(-1).values
        kept = support(logits, head.top_k, head.top_p).scatter(-1, ids[:, None], True)
    supported = torch.log_softmax(torch.where(kept, logits, -math.inf), dim=-1)
    logprobs = supported.gather(-1, ids[:, None])[:, 0]
    finite = supported.masked_fill(supported == -math.inf, 0)  # 0 * log 0 = 0, also in the gradient
    entropy = -(supported.exp() * finite).sum(-1)
    return LogprobOutput(logprobs, entropy, self_certainty, top1)


def scale_logits(raw: Tensor, head: Head) -> Tensor:
    logits = raw if head.bias is None else raw + head.bias.to(raw.dtype)
    logits = logits * head.logit_scale
    if head.softcap is not None:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    temperature = head.temperature
    scaled: Tensor = logits / (temperature[:, None] if isinstance(temperature, Tensor) else temperature)
    return scaled.to(raw.dtype)


def support(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Return [T, V] bool: of the top_k most likely tokens the smallest set of mass >= top_p, with ties."""
    kept = torch.ones_like(logits, dtype=torch.bool)
    if 0 < top_k < logits.shape[1]:
        kept = logits >= logits.topk(top_k, dim=-1).values[:, -1:]
    if top_p < 1:
        p = torch.where(kept, logits, -math.inf).softmax(-1, dtype=torch.float64)
        ordered, order = p.sort(dim=-1, descending=True)
        mass_before = torch.zeros_like(p).scatter(-1, order, ordered.cumsum(-1) - ordered)
        lowest = torch.where(mass_before < top_p, p, math.inf).amin(-1, keepdim=True)
        kept = kept & (p >= lowest)
    return kept
