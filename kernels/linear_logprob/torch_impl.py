"""linear_logprob on any device: the chunked passes in plain tensor operations."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastrl.kernels._chunks import RowScores
from fastrl.kernels._head import Head
from fastrl.kernels._outputs import LogprobOutput
from fastrl.kernels.linear_logprob.chunked import linear_logprob_chunked

SHIFT_FLOOR = -64.0  # exp below it counts as 0, so that no gradient made from it is a subnormal number


class TorchRows:
    """Softmax scores and their gradients; the buffer keeps z."""

    def score(
        self, logits: Tensor, ids: Tensor, head: Head, temperature: float | Tensor, keep_exponentials: bool
    ) -> RowScores:
        z = logits
        if head.bias is not None:
            z += head.bias.to(torch.float32)
        if head.softcap is None:
            z *= head.logit_scale
        else:
            z.mul_(head.logit_scale / head.softcap).tanh_().mul_(head.softcap)
        z /= temperature[:, None] if isinstance(temperature, Tensor) else temperature

        largest = z.max(-1).values
        mean = z.mean(-1)
        target = z.gather(-1, ids[:, None])[:, 0]
        shifted = z - largest[:, None]
        exponentials = _exp(shifted)
        weighted = (exponentials * shifted.clamp_(min=SHIFT_FLOOR)).sum(-1)
        mine = exponentials.gather(-1, ids[:, None])[:, 0]
        # The scored token is left out of the sum: log1p(others) keeps what 1 + others would round away.
        others = exponentials.scatter_(-1, ids[:, None], 0).sum(-1)
        total = others + mine
        log_sum = torch.where(target == largest, others.log1p(), total.log())
        return RowScores(
            logprobs=target - largest - log_sum,
            entropy=log_sum - weighted / total,
            self_certainty=largest - mean + log_sum - math.log(z.shape[1]),
            top1=target >= largest,
            max=largest,
            sum=total,
        )

    def gradient(
        self,
        logits: Tensor,
        ids: Tensor,
        head: Head,
        temperature: float | Tensor,
        scores: RowScores,
        grad_logprobs: Tensor,
        grad_entropy: Tensor | None,
        exponentials: bool,
    ) -> None:
        outer = head.logit_scale / temperature
        shifted = logits - scores.max[:, None]
        p = _exp(shifted) / scores.sum[:, None]
        inner = -p * grad_logprobs[:, None]
        target = -grad_logprobs * torch.expm1(scores.logprobs)
        if grad_entropy is not None:
            logp = shifted.clamp_(min=SHIFT_FLOOR) - scores.sum.log()[:, None]
            inner -= p * grad_entropy[:, None] * (logp + scores.entropy[:, None])
            target -= grad_entropy * scores.logprobs.exp() * (scores.logprobs + scores.entropy)
        inner.scatter_(-1, ids[:, None], target[:, None])
        if head.softcap is not None:
            cap = head.softcap / temperature
            inner *= 1 - (logits / (cap[:, None] if isinstance(cap, Tensor) else cap)).square()
        logits.copy_(inner.mul_(outer[:, None] if isinstance(outer, Tensor) else outer))


def _exp(shifted: Tensor) -> Tensor:
    return torch.where(shifted < SHIFT_FLOOR, 0, shifted.exp())


def linear_logprob_torch(hidden: Tensor, ids: Tensor, head: Head, chunk_rows: int | None) -> LogprobOutput:
    return linear_logprob_chunked(hidden, ids, head, chunk_rows, TorchRows())
