"""linear_grpo_loss: hidden states in, policy loss out, gradients ready."""

from __future__ import annotations

import torch
from torch import Tensor

from fastrl.kernels._batch import prepare_batch
from fastrl.kernels._checks import check_ids, refuse
from fastrl.kernels._dispatch import Backend, Implementation, anywhere, cpu_only, no_float64, pick
from fastrl.kernels._head import Head, check_head
from fastrl.kernels._outputs import LossOutput
from fastrl.kernels.config import LossConfig
from fastrl.kernels.linear_grpo_loss.cpp_impl import linear_grpo_loss_cpp
from fastrl.kernels.linear_grpo_loss.reference import linear_grpo_loss_reference
from fastrl.kernels.linear_grpo_loss.torch_impl import linear_grpo_loss_torch

OP = "linear_grpo_loss"
IMPLEMENTATIONS = (
    Implementation("cpp", linear_grpo_loss_cpp, cpu_only),
    Implementation("torch", linear_grpo_loss_torch, no_float64),
    Implementation("reference", linear_grpo_loss_reference, anywhere),
)


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
    """linear_logprob and grpo_loss in one pass: gradients are made with the loss, backward only scales them.

        loss = grpo_loss(linear_logprob(hidden, weight, ids).logprobs, ...)

    Arguments are those of the two ops. Rows without gradient leave before the head: loss_mask false; and
    advantage 0 where kl_coef and entropy_coef are 0, by whole sequences where the ratio or the correction is
    a sequence's.

    Returns: LossOutput; the loss is differentiable, once, in hidden, weight and bias. Stats are those of
        grpo_loss over the computed rows, and entropy_sum, self_certainty_sum, top1_sum; num_tokens_sum counts
        loss_mask.
    Raises: as the two ops do.
    Numerics: float32 logits and accumulation whatever the dtype of hidden.
    Cost: one [chunk_rows, V] float32 buffer and the gradients. Three matrix products a row, two of which are
        not made under no_grad or where the input needs no gradient; one more where the ratio or the
        correction is a sequence's and a sequence is longer than chunk_rows.
    """
    head = Head(weight, bias, temperature, logit_scale, softcap)
    check_head(OP, hidden, ids, head)
    others = (old_logprobs, ref_logprobs, rollout_logprobs)
    batch = prepare_batch(
        OP, hidden, cu_seqlens, advantages, loss_mask, others, config, denominator, leave_out=True
    )
    if chunk_rows is not None and chunk_rows < 1:
        refuse(OP, "chunk_rows", ">= 1 or None", chunk_rows)
    ids = torch.where(batch.computed, ids, 0)
    check_ids(OP, ids, weight.shape[0])
    run = pick(OP, backend, IMPLEMENTATIONS, hidden.device, hidden.dtype)
    out: LossOutput = run(hidden, ids, head, batch, chunk_rows)
    out.stats["num_tokens_sum"] = loss_mask.sum(dtype=torch.float64)
    return out
