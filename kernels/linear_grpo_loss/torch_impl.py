"""linear_grpo_loss on any device: the one pass in plain tensor operations."""

from __future__ import annotations

import torch
from torch import Tensor

from fastrl.kernels._batch import LossBatch
from fastrl.kernels._head import Head
from fastrl.kernels._outputs import LossOutput
from fastrl.kernels.grpo_loss.reference import grpo_loss_reference
from fastrl.kernels.linear_grpo_loss.chunked import linear_grpo_loss_chunked
from fastrl.kernels.linear_logprob.torch_impl import TorchRows


def grpo_slopes_torch(
    logprobs: Tensor, entropy: Tensor, batch: LossBatch
) -> tuple[Tensor, dict[str, Tensor]]:
    with torch.enable_grad():
        leaf = logprobs.detach().requires_grad_()
        loss, stats = grpo_loss_reference(leaf, entropy, batch)
        (slopes,) = torch.autograd.grad(loss, leaf)
    return slopes, stats | {"loss": loss.detach().double()}


def linear_grpo_loss_torch(
    hidden: Tensor, ids: Tensor, head: Head, batch: LossBatch, chunk_rows: int | None
) -> LossOutput:
    return linear_grpo_loss_chunked(hidden, ids, head, batch, chunk_rows, TorchRows(), grpo_slopes_torch)
