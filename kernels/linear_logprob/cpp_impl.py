"""linear_logprob on the CPU: library matrix products, everything between them in C++."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import fastrl._C as _C
from fastrl.kernels._chunks import RowScores
from fastrl.kernels._head import Head
from fastrl.kernels._outputs import LogprobOutput
from fastrl.kernels.linear_logprob.chunked import linear_logprob_chunked


class CppRows:
    """Softmax scores and their gradients, one pass over each row."""

    def score(
        self, logits: Tensor, ids: Tensor, head: Head, temperature: float | Tensor, keep_exponentials: bool
    ) -> RowScores:
        num_rows = logits.shape[0]
        floats = torch.empty(5, num_rows, dtype=torch.float32)
        logprobs, entropy, self_certainty, largest, total = floats.unbind()
        top1 = torch.empty(num_rows, dtype=torch.bool)
        scores = RowScores(logprobs, entropy, self_certainty, top1, largest, total)
        inputs = _Inputs(logits, ids, head, temperature)
        _C.score_rows(
            logits=inputs.native,
            scores=_native(scores),
            keep_exponentials=keep_exponentials,
            num_threads=torch.get_num_threads(),
        )
        return scores

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
        inputs = _Inputs(logits, ids, head, temperature)
        grad_logprobs = grad_logprobs.to(torch.float32).contiguous()
        grad_entropy = None if grad_entropy is None else grad_entropy.to(torch.float32).contiguous()
        _C.gradient_rows(
            logits=inputs.native,
            scores=_native(scores),
            grad_logprob=grad_logprobs.data_ptr(),
            grad_entropy=0 if grad_entropy is None else grad_entropy.data_ptr(),
            exponentials=exponentials,
            num_threads=torch.get_num_threads(),
        )


class _Inputs:
    """The addresses that C++ reads, and the tensors that keep them alive."""

    def __init__(self, logits: Tensor, ids: Tensor, head: Head, temperature: float | Tensor) -> None:
        self.ids = ids.contiguous()
        self.bias = None if head.bias is None else head.bias.to(torch.float32).contiguous()
        self.temperature = None
        inverse = 1.0
        if isinstance(temperature, Tensor):
            self.temperature = temperature.to(torch.float32).contiguous()
        else:
            inverse = 1 / temperature
        self.native = _C.Logits.of(
            values=logits.data_ptr(),
            rows=logits.shape[0],
            vocab=logits.shape[1],
            ids=self.ids.data_ptr(),
            bias=0 if self.bias is None else self.bias.data_ptr(),
            temperature=0 if self.temperature is None else self.temperature.data_ptr(),
            inverse_temperature=inverse,
            logit_scale=head.logit_scale,
            softcap=head.softcap or 0.0,
        )


def _native(scores: RowScores) -> Any:
    return _C.RowScores.of(
        logprob=scores.logprobs.data_ptr(),
        entropy=scores.entropy.data_ptr(),
        self_certainty=scores.self_certainty.data_ptr(),
        max=scores.max.data_ptr(),
        sum=scores.sum.data_ptr(),
        top1=scores.top1.data_ptr(),
    )


def linear_logprob_cpp(hidden: Tensor, ids: Tensor, head: Head, chunk_rows: int | None) -> LogprobOutput:
    return linear_logprob_chunked(hidden, ids, head, chunk_rows, CppRows())
