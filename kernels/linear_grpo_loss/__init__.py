"""linear_grpo_loss: hidden states in, policy loss out, gradients ready."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from fastrl.kernels._batch import LossBatch, check_batch, sequence_of_tokens, sequence_sum, token_advantages
from fastrl.kernels._checks import check_ids, refuse
from fastrl.kernels._dispatch import Backend, Implementation, anywhere, pick
from fastrl.kernels._head import Head, check_head
from fastrl.kernels._outputs import LossOutput
from fastrl.kernels.config import LossConfig
from fastrl.kernels.linear_grpo_loss.reference import linear_grpo_loss_reference

OP = "linear_grpo_loss"
IMPLEMENTATIONS = (Implementation("reference", linear_grpo_loss_reference, anywhere),)


def linear_grpo_loss(
    hidden: Tensor,
    weight: Tensor,
    ids: Tensor,
    *,
    cu_seqlens: Tensor,
    advantages: Tensor,
    loss_mask: Tensor,
    old_logprobs: Tensor | None = None,
    ref_logprobs: Tensor | None = None,
    rollout_logprobs: Tensor | None = None,
    config: LossConfig,
    denominator: float,
    bias: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    chunk_rows: int | None = None,
    backend: Backend = "auto",
) -> LossOutput:
    """linear_logprob and grpo_loss in one pass: the gradients are made with the loss, backward only scales them.

        loss = grpo_loss(linear_logprob(hidden, weight, ids).logprobs, ...)

    Arguments are those of the two ops. Rows without gradient leave before the head: loss_mask false, and advantage
    0 where kl_coef and entropy_coef are 0 (whole sequences where the ratio or the correction is a sequence's).

    Returns: LossOutput; the loss is differentiable, once, in hidden, weight and bias. Stats are those of grpo_loss
        over the computed rows, and entropy_sum, self_certainty_sum, top1_sum; num_tokens_sum counts loss_mask.
    Raises: as the two ops do.
    Numerics: float32 logits and accumulation whatever the dtype of hidden.
    Cost: one [chunk_rows, V] float32 buffer and the gradients. Three matrix products of a row, two of them not
        made under no_grad or where the input needs no gradient. Where sequences are corrected as wholes and are
        longer than chunk_rows, one more.
    """
    head = Head(weight, bias, temperature, logit_scale, softcap)
    check_head(OP, hidden, ids, head)
    batch = LossBatch(
        cu_seqlens, advantages, loss_mask, loss_mask, old_logprobs, ref_logprobs, rollout_logprobs, config, denominator
    )
    check_batch(OP, hidden, batch)
    if chunk_rows is not None and chunk_rows < 1:
        refuse(OP, "chunk_rows", ">= 1 or None", chunk_rows)
    batch = dataclasses.replace(batch, computed=computed_rows(batch))
    check_ids(OP, ids[batch.computed] if ids.device.type == "cpu" else ids, weight.shape[0])
    run = pick(OP, backend, IMPLEMENTATIONS, hidden.device, hidden.dtype)
    out: LossOutput = run(hidden, ids, head, batch, chunk_rows)
    return out


def computed_rows(batch: LossBatch) -> Tensor:
    """[T] bool: rows that can carry a gradient."""
    if batch.config.kl_coef != 0 or batch.config.entropy_coef != 0:
        return batch.loss_mask
    sequence = sequence_of_tokens(batch.cu_seqlens, batch.loss_mask.shape[0])
    active = batch.loss_mask & (token_advantages(batch, sequence) != 0)
    if batch.whole_sequences:
        active = batch.loss_mask & (sequence_sum(active.to(torch.int64), sequence, batch) > 0)[sequence]
    return active
