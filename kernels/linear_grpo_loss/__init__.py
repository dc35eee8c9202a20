"""linear_grpo_loss: the policy loss and its gradients from hidden states, in one pass."""

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
    """Return the policy loss from hidden states; the forward computes gradients, the backward scales them.

        loss = grpo_loss(linear_logprob(hidden, weight, ids).logprobs, ...)

    Arguments are those of the two ops. Rows without gradient are skipped before the head: those outside
    loss_mask, and those of advantage 0 if kl_coef and entropy_coef are 0. With sequence-level ratios or
    corrections only whole sequences are skipped.

    Args:
        recompute: recompute logits in a second pass instead of keeping a chunk's logits: one more matrix
            product per row (8 T D V instead of 6), but no float32 copy of the weight's gradient.
        batch_invariant: as in linear_logprob: a row's log-prob and gradient in hidden do not depend on other
            rows. The weight's gradient is a sum over all rows and does.
        skip_share: 0: exact. Otherwise skip the columns of the vocabulary that hold together at most this
            share of a chunk's sum |d loss / d logits| in the gradients of hidden and weight. The stats
            grad_hidden_error_sum and grad_weight_error_sum bound the Frobenius norm of the error;
            skipped_columns_sum counts the columns. Costs one host sync per chunk.
        max_active_rows: upper bound of the computed rows; None: counted on the device; costs one host sync.
            With a number there is no host sync, so the call can be captured in a CUDA graph.
    Returns: LossOutput; the loss is differentiable, once, in hidden, weight and bias. Stats are those of
        grpo_loss over the computed rows, and entropy_sum, self_certainty_sum, top1_sum; num_tokens_sum counts
        loss_mask.
    Raises: as the two ops do.
    Numerics: float32 logits and accumulation for any dtype of hidden.
    Cost: memory for a chunk's logits (about 160 MiB on a CPU; on a GPU 0.3 GiB, and 1.1 GiB of their
        gradients) and for the gradients, the weight's in float32; on a GPU also for a copy of a weight that
        has not hidden's dtype. Three matrix products per row, of which two are skipped under no_grad or if an
        input needs no gradient. One more with recompute, or with sequence-level ratios or corrections if a
        sequence (with max_active_rows: the batch) does not fit into a chunk.
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
    options = encode(chunk_rows, recompute, batch_invariant, skip_share, max_active_rows)
    name = _choose(backend, hidden.device, hidden.dtype)
    out = _run(hidden, ids, head, batch, options, skip_share > 0, name)
    out.stats["num_tokens_sum"] = loss_mask.sum(dtype=torch.float64)
    return out


def _run(
    hidden: Tensor, ids: Tensor, head: Head, batch: LossBatch, options: str, skips: bool, name: str
) -> LossOutput:
    if name == "reference":
        check_bounds(OP, batch.cu_seqlens, hidden.shape[0])
        return linear_grpo_loss_reference(hidden, ids, head, batch)
    inputs = (hidden, head.weight, head.bias)
    needed = [torch.is_grad_enabled() and t is not None and t.requires_grad for t in inputs]
    loss, logprobs, entropy, computed, stats, skipped, *_ = linear_grpo_loss_op(
        *inputs,
        ids,
        head.row_temperature,
        *batch.tensors(),
        batch.advantages_per_token,
        head.scaling.encode(),
        batch.config.encode(),
        batch.denominator,
        options,
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
