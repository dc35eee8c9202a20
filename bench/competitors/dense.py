"""Plain PyTorch (logits, log_softmax in float32, gather), eager and compiled; PyTorch's fused function."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from bench.competitors.base import Competitor, LogitsCase, Logprobs
from fastrl.ops import grpo_loss


def dense_logprobs(hidden: Tensor, weight: Tensor, ids: Tensor, temperature: float) -> tuple[Tensor, None]:
    """Return log-probs as a careful training script: logits in hidden's dtype, the rest in float32."""
    logits = (hidden @ weight.T).float()
    if temperature != 1.0:
        logits = logits / temperature
    return torch.log_softmax(logits, -1).gather(-1, ids[:, None])[:, 0], None


def pytorch_fused(**options: Any) -> Logprobs:
    if not hasattr(functional, "linear_cross_entropy"):
        raise ImportError(f"torch {torch.__version__} has no linear_cross_entropy")
    chunks = torch.nn.LinearCrossEntropyOptions(**options)

    def run(hidden: Tensor, weight: Tensor, ids: Tensor, temperature: float) -> tuple[Tensor, None]:
        hidden = hidden if temperature == 1.0 else hidden / temperature
        loss = functional.linear_cross_entropy(hidden, weight, ids, reduction="none", options=chunks)
        return -loss.float(), None

    return run


def dense_logits_loss(case: LogitsCase) -> Tensor:
    scores = torch.log_softmax(case.logits[:, :-1].float(), -1)
    logprobs = scores.gather(-1, case.ids[..., None]).flatten()
    out = grpo_loss(
        logprobs, **case.batch, config=case.config, denominator=case.denominator, backend="reference"
    )
    return out.loss


HEAD = (
    Competitor(name="torch eager", package="torch", load=lambda: dense_logprobs),
    Competitor(
        name="torch.compile",
        package="torch",
        load=lambda: torch.compile(dense_logprobs),
        compiled=True,
    ),
    Competitor(
        name="torch.compile max-autotune",
        package="torch",
        load=lambda: torch.compile(dense_logprobs, mode="max-autotune-no-cudagraphs"),
        compiled=True,
        needs_cuda=True,
    ),
    Competitor(name="F.linear_cross_entropy", package="torch", load=lambda: pytorch_fused()),
    Competitor(
        name="F.linear_cross_entropy 256",
        package="torch",
        load=lambda: pytorch_fused(chunking_method=None, batch_chunk_size=256),
    ),
)
LOGITS = (
    Competitor(name="torch eager", package="torch", load=lambda: dense_logits_loss, whole_loss=True),
    Competitor(
        name="torch.compile",
        package="torch",
        load=lambda: torch.compile(dense_logits_loss),
        whole_loss=True,
        compiled=True,
    ),
)
