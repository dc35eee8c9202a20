"""logits_grpo_loss as a torch operator: the forward computes the gradient."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fastrl.kernels._batch import LossBatch, unpack_batch
from fastrl.kernels._dispatch import device_of
from fastrl.kernels._head import Scaling, check_values
from fastrl.kernels._rows import RowMath, RowScores, Tile
from fastrl.kernels._tokens import STATS, TokenMath, TokenScores
from fastrl.kernels.grpo_loss.library import token_math
from fastrl.kernels.linear_grpo_loss.library import hand_over
from fastrl.kernels.linear_logprob.library import row_math

NUM_INPUTS = 14
WIDENED_LOGITS = 1 << 24  # 64 MiB of float32
Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


@torch.library.custom_op("fastrl::logits_grpo_loss", mutates_args=())
def logits_grpo_loss_op(
    logits: Tensor,
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
    backend: str,
    needed: bool,
) -> Outputs:
    """Return (loss, logprobs, entropy, computed, stats, gradient)."""
    tensors = (cu_seqlens, advantages, loss_mask, old_logprobs, ref_logprobs, rollout_logprobs)
    batch = unpack_batch("logits_grpo_loss", len(logits), tensors, per_token, config, denominator)
    scaled = Scaling.decode(scaling)
    with device_of(logits):
        return _run(logits, ids, temperature, batch, scaled, row_math(backend), token_math(backend), needed)


def _run(
    logits: Tensor, ids: Tensor, temperature: Tensor | None, batch: LossBatch, scaling: Scaling,
    rows: RowMath, tokens: TokenMath, needed: bool,
) -> Outputs:  # fmt: skip
    selection = tokens.select(batch, leave_out=True)
    computed = selection.computed
    check_values("logits_grpo_loss", torch.where(computed, ids, 0), logits.shape[1], temperature)
    given = _Logits(logits, torch.where(computed, ids, -1), temperature, scaling, rows)
    scores = given.score()
    floats = (scores.logprobs, scores.entropy, scores.self_certainty)
    kept = [torch.where(computed, values, 0) for values in floats]
    grads = tokens.grads(batch, selection, TokenScores(None, kept[0], kept[1], kept[2], scores.top1))
    gradient = logits.new_empty(0)
    if needed:
        gradient = given.differentiate(scores, grads.grad_logprobs, grads.grad_entropy)
    loss = grads.stats[STATS.index("loss")].to(kept[0].dtype, copy=True)
    return loss, kept[0], kept[1], computed.clone(), grads.stats, gradient


class _Logits:
    """Logits, processed all at once, or a few rows at a time if they must be cast to float32."""

    def __init__(
        self, logits: Tensor, ids: Tensor, temperature: Tensor | None, scaling: Scaling, math: RowMath
    ) -> None:
        self._logits = logits if logits.stride(1) == 1 else logits.contiguous()
        self._ids, self._temperature, self._scaling, self._math = ids, temperature, scaling, math
        self._accurate = torch.promote_types(logits.dtype, torch.float32)
        self._widens = logits.device.type == "cpu" and logits.dtype != self._accurate
        self._floors: Tensor | None = None
        if scaling.limits_support(logits.shape[1]):
            self._floors = torch.empty(len(ids), dtype=self._accurate, device=ids.device)

    def score(self) -> RowScores:
        scores = RowScores.empty(len(self._ids), self._ids.device, self._accurate)
        for part in self._parts():
            tile = self._tile(part)
            if self._floors is not None:
                whole = dataclasses.replace(tile, floor=None)
                self._floors[part] = self._math.floors(whole, self._scaling.top_k, self._scaling.top_p)
            self._math.score(tile, scores.part(part), self._logits.shape[1])
        return scores

    def differentiate(self, scores: RowScores, grad_logprobs: Tensor, grad_entropy: Tensor | None) -> Tensor:
        gradient = torch.empty(self._logits.shape, dtype=self._logits.dtype, device=self._logits.device)
        for part in self._parts():
            tile = self._tile(part)
            incoming = (grad_logprobs[part], None if grad_entropy is None else grad_entropy[part])
            out = tile.logits if self._widens else gradient[part]
            self._math.gradient(tile, scores.part(part), *incoming, out)
            if self._widens:
                gradient[part] = out
        return gradient

    def _parts(self) -> Iterator[slice]:
        rows, total = self._logits.shape
        step = max(1, WIDENED_LOGITS // total) if self._widens else max(1, rows)
        return (slice(begin, min(begin + step, rows)) for begin in range(0, rows, step))

    def _tile(self, part: slice) -> Tile:
        scaling, rows = self._scaling, self._temperature
        temperature = scaling.temperature if rows is None else rows[part]
        assert temperature is not None, "check_scaling requires one"
        return Tile(
            self._logits[part].float() if self._widens else self._logits[part],
            0,
            self._ids[part],
            None,
            temperature,
            scaling.logit_scale,
            scaling.softcap,
            None if self._floors is None else self._floors[part],
        )


@logits_grpo_loss_op.register_fake
def _(logits: Tensor, *others: Any) -> Outputs:
    num_rows = logits.shape[0]
    accurate = torch.promote_types(logits.dtype, torch.float32)
    gradient = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
    return (
        logits.new_empty((), dtype=accurate),
        logits.new_empty(num_rows, dtype=accurate),
        logits.new_empty(num_rows, dtype=accurate),
        logits.new_empty(num_rows, dtype=torch.bool),
        logits.new_empty(len(STATS), dtype=torch.float64),
        gradient if others[-1] else logits.new_empty(0),
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Outputs) -> None:
    ctx.save_for_backward(output[5])
    ctx.handed_over = False
    ctx.set_materialize_grads(False)  # no zero gradients for the other outputs
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx: Any, grad_loss: Tensor, *_: Any) -> tuple[Any, ...]:
    (gradient,) = hand_over("logits_grpo_loss", ctx, grad_loss, [True])
    return (gradient, *([None] * NUM_INPUTS))


logits_grpo_loss_op.register_autograd(_backward, setup_context=_keep)
