"""linear_grpo_loss: hidden states in, policy loss out, gradients ready."""

from __future__ import annotations

import torch
from torch import Tensor

from fastrl.kernels._batch import LossBatch, make_batch
from fastrl.kernels._checks import check_at_least_one, check_bounds, refuse, whole_weight
from fastrl.kernels._compiled import constant
from fastrl.kernels._dispatch import Backend, pick
from fastrl.kernels._head import Head, check_head
from fastrl.kernels._outputs import LossOutput
from fastrl.kernels._tokens import present_stats
from fastrl.kernels.config import LossConfig
from fastrl.kernels.group_advantage import GroupRewards
from fastrl.kernels.linear_grpo_loss.library import encode, linear_grpo_loss_op
from fastrl.kernels.linear_grpo_loss.reference import linear_grpo_loss_reference
from fastrl.kernels.linear_logprob.library import IMPLEMENTATIONS

OP = "linear_grpo_loss"


def linear_grpo_loss(
    hidden: Tensor,
    weight: Tensor,
    ids: Tensor,
    *,
    cu_seqlens: Tensor,
    advantages: Tensor | GroupRewards,
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
    top_k: int = 0,
    top_p: float = 1.0,
    chunk_rows: int | None = None,
    recompute: bool = False,
    batch_invariant: bool = False,
    skip_share: float = 0.0,
    max_active_rows: int | None = None,
    backend: Backend = "auto",
) -> LossOutput:
    """linear_logprob and grpo_loss in one pass: gradients are made with the loss, backward only scales them.

        loss = grpo_loss(linear_logprob(hidden, weight, ids).logprobs, ...)

    Arguments are those of the two ops. Rows without gradient leave before the head: loss_mask false; and
    advantage 0 where kl_coef and entropy_coef are 0, by whole sequences where the ratio or the correction is
    a sequence's.

    Args:
        recompute: two passes over tiles of the vocabulary, in place of one that keeps a chunk's logits: one
            matrix product a row more (8 T D V for 6), and no float32 copy of the weight's gradient.
        batch_invariant: as in linear_logprob: a row's log-prob and gradient in hidden do not depend on the
            rows around it. The weight's gradient is a sum over all rows and does.
        skip_share: 0: exact. Otherwise columns of the vocabulary that hold, together, at most this share of
            a chunk's sum |d loss / d logits| leave the gradients in hidden and weight; what these lack is
            bounded, in Frobenius norm, by the stats grad_hidden_error_sum and grad_weight_error_sum.
            skipped_columns_sum counts them. A GPU is waited for once a chunk.
        max_active_rows: at least the computed rows; None: they are counted, for which a GPU is waited for.
            With a number nothing is waited for, so that the call can be captured in a CUDA graph.
    Returns: LossOutput; the loss is differentiable, once, in hidden, weight and bias. Stats are those of
        grpo_loss over the computed rows, and entropy_sum, self_certainty_sum, top1_sum; num_tokens_sum counts
        loss_mask.
    Raises: as the two ops do.
    Numerics: float32 logits and accumulation whatever the dtype of hidden.
    Cost: a chunk's logits (about 160 MiB on a CPU; a GPU: 0.3 GiB, and 1.1 GiB of their gradients) and the
        gradients, the weight's in float32. Three matrix products a row, two of which are not made under
        no_grad or where the input needs no gradient; one more with recompute, and where the ratio or the
        correction is a sequence's and a sequence doesn't fit in a chunk (or, given max_active_rows, the
        batch doesn't).
    """
    head = Head(whole_weight(weight), bias, temperature, logit_scale, softcap, top_k, top_p)
    check_head(OP, hidden, ids, head)
    optional = (old_logprobs, ref_logprobs, rollout_logprobs)
    batch = make_batch(OP, hidden, cu_seqlens, advantages, loss_mask, optional, config, denominator)
    check_at_least_one(OP, chunk_rows=chunk_rows, max_active_rows=max_active_rows)
    if not 0 <= skip_share < 1:
        refuse(OP, "skip_share", "a number in [0, 1)", skip_share)
    if skip_share > 0 and recompute:
        refuse(OP, "skip_share", "0 with recompute", skip_share)
    how = encode(chunk_rows, recompute, batch_invariant, skip_share, max_active_rows)
    name = _choose(backend, hidden.device, hidden.dtype)
    out = _run(hidden, ids, head, batch, how, skip_share > 0, name)
    out.stats["num_tokens_sum"] = loss_mask.sum(dtype=torch.float64)
    return out


def _run(
    hidden: Tensor, ids: Tensor, head: Head, batch: LossBatch, how: str, skips: bool, name: str
) -> LossOutput:
    if name == "reference":
        check_bounds(OP, batch.cu_seqlens, hidden.shape[0])
        return linear_grpo_loss_reference(hidden, ids, head, batch)
    inputs = (hidden, head.weight, head.bias)
    needed = [torch.is_grad_enabled() and each is not None and each.requires_grad for each in inputs]
    loss, logprobs, entropy, computed, stats, skipped, *_ = linear_grpo_loss_op(
        *inputs,
        ids,
        head.row_temperature,
        *batch.tensors(),
        batch.advantages_per_token,
        head.scaling.encode(),
        batch.config.encode(),
        batch.denominator,
        how,
        name,
        needed,
    )
    named = present_stats(stats, batch, ("entropy", "self_certainty", "top1"))
    if skips:
        names = ("skipped_columns_sum", "grad_hidden_error_sum", "grad_weight_error_sum")
        named |= dict(zip(names, skipped.unbind(), strict=True))
    return LossOutput(loss, logprobs, entropy, named, computed)


@constant
def _choose(backend: str, device: torch.device, dtype: torch.dtype) -> str:
    return pick(OP, backend, IMPLEMENTATIONS, device, dtype).name
