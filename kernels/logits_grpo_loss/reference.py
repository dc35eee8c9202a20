"""Definition of logits_grpo_loss: softmax, the reference of grpo_loss, and autograd."""

from __future__ import annotations

import torch
from torch import Tensor

from fastrl.kernels._batch import LossBatch
from fastrl.kernels._head import Head, Scaling
from fastrl.kernels._outputs import LossOutput
from fastrl.kernels.linear_grpo_loss.reference import loss_of_logits


def logits_grpo_loss_reference(
    logits: Tensor, ids: Tensor, scaling: Scaling, temperature: Tensor | None, batch: LossBatch
) -> LossOutput:
    head = Head.of(logits.T, None, temperature, scaling)  # only the shape of its weight is read
    return loss_of_logits(logits.to(torch.promote_types(logits.dtype, torch.float32)), ids, head, batch)
