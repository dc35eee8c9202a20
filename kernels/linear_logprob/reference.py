"""Definition of linear_logprob: every logit at once, autograd for the gradients."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastrl.kernels._head import Head
from fastrl.kernels._outputs import LogprobOutput


def reference_logits(hidden: Tensor, head: Head) -> Tensor:
    """[T, V] in float32, or float64 where hidden is; the weight is rounded to hidden's dtype."""
    accurate = torch.promote_types(hidden.dtype, torch.float32)
    weight = head.weight.to(accurate)
    # Rounded in value alone: the gradient goes to the weight as it is.
    weight = weight + (weight.to(hidden.dtype).to(accurate) - weight).detach()
    logits = hidden.to(accurate) @ weight.T
    if head.bias is not None:
        logits = logits + head.bias.to(accurate)
    logits = logits * head.logit_scale
    if head.softcap is not None:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    temperature = head.temperature
    scaled: Tensor = logits / (temperature[:, None] if isinstance(temperature, Tensor) else temperature)
    return scaled.to(accurate)


def linear_logprob_reference(
    hidden: Tensor, ids: Tensor, head: Head, chunk_rows: int | None
) -> LogprobOutput:
    logits = reference_logits(hidden, head)
    all_logprobs = torch.log_softmax(logits, dim=-1)
    logprobs = all_logprobs.gather(-1, ids[:, None])[:, 0]
    entropy = -(all_logprobs.exp() * all_logprobs).sum(-1)
    with torch.no_grad():
        self_certainty = -all_logprobs.mean(-1) - math.log(head.weight.shape[0])
        top1 = logits.gather(-1, ids[:, None])[:, 0] >= logits.max(-1).values
    return LogprobOutput(logprobs, entropy, self_certainty, top1)
