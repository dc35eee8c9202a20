"""logits_grpo_loss: the policy loss and its gradient from logits."""

from __future__ import annotations

import torch
from torch import Tensor

from fastrl.kernels._batch import LossBatch, make_batch
from fastrl.kernels._checks import FLOATS, check_bounds, check_device, check_dtype, check_shape, refuse
from fastrl.kernels._compiled import constant
from fastrl.kernels._dispatch import Backend, pick
from fastrl.kernels._head import Scaling, check_scaling
from fastrl.kernels._outputs import LossOutput
from fastrl.kernels._tokens import present_stats
from fastrl.kernels.config import LossConfig
from fastrl.kernels.group_advantage import GroupRewards
from fastrl.kernels.linear_logprob.library import IMPLEMENTATIONS
from fastrl.kernels.logits_grpo_loss.library import logits_grpo_loss_op
from fastrl.kernels.logits_grpo_loss.reference import logits_grpo_loss_reference

OP = "logits_grpo_loss"


def logits_grpo_loss(
    logits: Tensor,
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
    temperature: float | Tensor = 1.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    top_k: int = 0,
    top_p: float = 1.0,
    backend: Backend = "auto",
) -> LossOutput:
    """Return the policy loss from logits, for models that compute the logits themselves.

        z[t] = cap(logit_scale * logits[t]) / temperature[t]
        loss = grpo_loss(log softmax(z)[ids], ...)

    Logits are read twice, for the scores and for the gradient.

    Args:
        logits: [T, V] bf16, fp16, fp32 or fp64; row t predicts ids[t]. Any row stride.
        ids: [T] int64; read only where loss_mask is True.
        The others are those of linear_grpo_loss.
    Returns: LossOutput as in linear_grpo_loss; the loss is differentiable, once, in logits. The gradient has
        their dtype and is exactly 0 in rows that are not computed.
    Raises: as grpo_loss does.
    Cost: one [T, V] gradient; on a CPU half-precision logits are cast to float32 a few rows at a time.
    """
    check_dtype(OP, "logits", logits, *FLOATS)
    if logits.dim() != 2 or logits.shape[1] < 1:
        refuse(OP, "logits", "shape (T, V) with V >= 1", tuple(logits.shape))
    check_dtype(OP, "ids", ids, torch.int64)
    check_shape(OP, "ids", ids, logits.shape[:1])
    check_device(OP, "ids", ids, logits.device)
    per_row = temperature if isinstance(temperature, Tensor) else None
    number = None if isinstance(temperature, Tensor) else float(temperature)
    scaling = Scaling(number, logit_scale, softcap, top_k, top_p)
    check_scaling(OP, ids, scaling, per_row)
    optional = (old_logprobs, ref_logprobs, rollout_logprobs)
    batch = make_batch(OP, logits, cu_seqlens, advantages, loss_mask, optional, config, denominator)
    name = _choose(backend, logits.device, logits.dtype)
    out = _run(logits, ids, scaling, per_row, batch, name)
    out.stats["num_tokens_sum"] = loss_mask.sum(dtype=torch.float64)
    return out


def _run(
    logits: Tensor, ids: Tensor, scaling: Scaling, temperature: Tensor | None, batch: LossBatch, name: str
) -> LossOutput:
    if name == "reference":
        check_bounds(OP, batch.cu_seqlens, logits.shape[0])
        return logits_grpo_loss_reference(logits, ids, scaling, temperature, batch)
    loss, logprobs, entropy, computed, stats, _ = logits_grpo_loss_op(
        logits,
        ids,
        temperature,
        *batch.tensors(),
        batch.advantages_per_token,
        scaling.encode(),
        batch.config.encode(),
        batch.denominator,
        name,
        torch.is_grad_enabled() and logits.requires_grad,
    )
    named = present_stats(stats, batch, ("entropy", "self_certainty", "top1"))
    return LossOutput(loss, logprobs, entropy, named, computed)


@constant
def _choose(backend: str, device: torch.device, dtype: torch.dtype) -> str:
    return pick(OP, backend, IMPLEMENTATIONS, device, dtype).name
