"""Definition of linear_grpo_loss: the references of the two other ops, and autograd."""

from __future__ import annotations

import torch
from torch import Tensor

from fastrl.kernels._batch import LossBatch
from fastrl.kernels._head import Head
from fastrl.kernels._outputs import LossOutput
from fastrl.kernels.grpo_loss.reference import grpo_loss_reference, select_reference
from fastrl.kernels.linear_logprob.reference import raw_logits, score_logits


def linear_grpo_loss_reference(hidden: Tensor, ids: Tensor, head: Head, batch: LossBatch) -> LossOutput:
    return loss_of_logits(raw_logits(hidden, head), ids, head, batch)


def loss_of_logits(raw: Tensor, ids: Tensor, head: Head, batch: LossBatch) -> LossOutput:
    """Return the loss of raw logits; of head.weight only the shape is read."""
    selection = select_reference(batch, leave_out=True)
    computed = selection.computed
    scored = score_logits(raw, torch.where(computed, ids, 0), head)
    loss, stats = grpo_loss_reference(scored.logprobs, scored.entropy, batch, selection)
    for name, value in (("self_certainty_sum", scored.self_certainty), ("top1_sum", scored.top1)):
        stats[name] = torch.where(computed, value.double(), 0.0).sum()
    kept = [torch.where(computed, value.detach(), 0) for value in (scored.logprobs, scored.entropy)]
    return LossOutput(loss, kept[0], kept[1], stats, computed)
