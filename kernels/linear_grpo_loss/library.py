"""linear_grpo_loss as a torch operator: the forward computes the gradients, the backward returns them."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import torch
from torch import Tensor

from fastrl.kernels._batch import unpack_batch
from fastrl.kernels._compiled import constant
from fastrl.kernels._dispatch import device_of
from fastrl.kernels._head import Head, Scaling, check_values
from fastrl.kernels._tokens import STATS, fold_stats
from fastrl.kernels.grpo_loss.library import token_math
from fastrl.kernels.linear_grpo_loss.one_pass import LossPass, PassOptions
from fastrl.kernels.linear_logprob.library import empty_gradients, row_math

NUM_INPUTS = 18
Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


@constant
def encode(
    chunk_rows: int | None,
    recompute: bool,
    batch_invariant: bool,
    skip_share: float,
    max_active_rows: int | None,
) -> str:
    """Return PassOptions as text, for the operator."""
    return json.dumps(
        dataclasses.asdict(PassOptions(chunk_rows, recompute, batch_invariant, skip_share, max_active_rows))
    )


@torch.library.custom_op("fastrl::linear_grpo_loss", mutates_args=())
def linear_grpo_loss_op(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    ids: Tensor,
    temperature: Tensor | None,
    cu_seqlens: Tensor,
    advantages: Tensor,
    loss_mask: Tensor,
    old_logprobs: Tensor | None,
    ref_logprobs: Tensor | None,
    rollout_logprobs: Tensor | None,
    per_token: bool,
    scaling: str,
    config: str,
    denominator: float,
    options: str,
    backend: str,
    needed: list[bool],
) -> Outputs:
    """Return (loss, logprobs, entropy, computed, stats, skipped, gradients in hidden, weight and bias)."""
    tensors = (cu_seqlens, advantages, loss_mask, old_logprobs, ref_logprobs, rollout_logprobs)
    batch = unpack_batch("linear_grpo_loss", len(hidden), tensors, per_token, config, denominator)
    head = Head.of(weight, bias, temperature, Scaling.decode(scaling))
    parsed = PassOptions(**json.loads(options))
    with device_of(hidden):
        loss_pass = LossPass(hidden, ids, head, batch, row_math(backend), token_math(backend), parsed)
        check_values("linear_grpo_loss", loss_pass.ids, head.vocab, temperature)
        found, gradients = loss_pass.run((needed[0], needed[1], needed[2]))
    stats = fold_stats(found.stats)
    grads = [hidden.new_empty(0) if gradient is None else gradient for gradient in gradients]
    return (
        stats[STATS.index("loss")].to(found.logprobs.dtype, copy=True),
        found.logprobs[:-1].clone(),
        found.entropy[:-1].clone(),
        loss_pass.selection.computed.clone(),
        stats,
        torch.stack([found.skipped.columns, found.skipped.grad_hidden, found.skipped.grad_weight]),
        grads[0],
        grads[1],
        grads[2],
    )


@linear_grpo_loss_op.register_fake
def _(hidden: Tensor, weight: Tensor, bias: Tensor | None, *others: Any) -> Outputs:
    num_rows = hidden.shape[0]
    accurate = torch.promote_types(hidden.dtype, torch.float32)
    return (
        hidden.new_empty((), dtype=accurate),
        hidden.new_empty(num_rows, dtype=accurate),
        hidden.new_empty(num_rows, dtype=accurate),
        hidden.new_empty(num_rows, dtype=torch.bool),
        hidden.new_empty(len(STATS), dtype=torch.float64),
        hidden.new_empty(3, dtype=torch.float64),
        *empty_gradients(hidden, weight, bias, others[-1]),
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Outputs) -> None:
    ctx.save_for_backward(*output[6:])
    ctx.needed = inputs[-1]
    ctx.handed_over = False
    ctx.set_materialize_grads(False)  # no zero gradients for the other outputs
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx: Any, grad_loss: Tensor, *_: Any) -> tuple[Any, ...]:
    scaled = hand_over("linear_grpo_loss", ctx, grad_loss, ctx.needed)
    return (*scaled, *([None] * (NUM_INPUTS - 3)))


def hand_over(op: str, ctx: Any, grad_loss: Tensor, needed: list[bool]) -> list[Tensor | None]:
    """Scale the saved gradients in place and return them; None for those not needed.

    Raises: RuntimeError: a second backward, since the gradients have been changed.
    """
    if ctx.handed_over:
        raise RuntimeError(
            f"[{op}] backward: expected one call, got a second; the gradients were handed over"
        )
    ctx.handed_over = True
    gradients = [saved if wanted else None for saved, wanted in zip(ctx.saved_tensors, needed, strict=True)]
    if torch.compiler.is_compiling() or type(grad_loss) is not Tensor:  # a traced tensor has no value
        return [None if g is None else g * grad_loss.to(g.dtype) for g in gradients]
    # on a CPU, skip the pass over the weight for the usual factor 1; on a GPU the test would cost a host sync
    if grad_loss.device.type == "cpu" and bool(grad_loss == 1):
        return gradients
    return [None if g is None else g.mul_(grad_loss) for g in gradients]


linear_grpo_loss_op.register_autograd(_backward, setup_context=_keep)
