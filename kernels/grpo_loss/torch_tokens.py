"""Token math in PyTorch on any device: the reference's formulas, and their gradients in closed form."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from fastrl.kernels._batch import LossBatch
from fastrl.kernels._tokens import STATS, Selection, TokenGrads, TokenScores
from fastrl.kernels.config import LossConfig
from fastrl.kernels.grpo_loss.reference import (
    LOG_RATIO_LIMIT,
    grpo_loss_reference,
    kl_term,
    loss_terms,
    select_reference,
)


class TorchTokens:
    def select(self, batch: LossBatch, leave_out: bool) -> Selection:
        return select_reference(batch, leave_out)

    def grads(self, batch: LossBatch, selection: Selection, scores: TokenScores) -> TokenGrads:
        logprobs = scatter(scores.logprobs, scores.rows, selection)
        entropy = None if scores.entropy is None else scatter(scores.entropy, scores.rows, selection)
        if scores.rows is not None:
            here = scatter(torch.ones_like(scores.rows, dtype=torch.bool), scores.rows, selection)
            selection = dataclasses.replace(selection, computed=selection.computed & here)
        loss, stats = grpo_loss_reference(logprobs, entropy, batch, selection)
        grad_logprobs, weights = token_grads(logprobs, batch, selection)
        stats["loss"] = loss.detach().double()
        for name, values in (("self_certainty_sum", scores.self_certainty), ("top1_sum", scores.top1)):
            if values is not None:
                kept = torch.where(selection.computed, scatter(values.double(), scores.rows, selection), 0)
                stats[name] = kept.sum()
        coef = batch.config.entropy_coef
        return TokenGrads(
            gather(grad_logprobs, scores.rows),
            gather(-coef * weights, scores.rows) if coef != 0 else None,
            torch.stack([stats.get(name, _identity(name, loss)) for name in STATS]),
        )


def token_grads(logprobs: Tensor, batch: LossBatch, selection: Selection) -> tuple[Tensor, Tensor]:
    """Return (d loss / d logprobs, weight of each token), [T]; 0 for tokens that are not computed."""
    config, computed = batch.config, selection.computed
    terms = loss_terms(torch.where(computed, logprobs, 0), batch, selection)
    low, high = 1 - config.clip_eps_low, 1 + config.eps_high
    ratio, advantages = terms.ratio, terms.advantages
    clamped = terms.log_ratio.abs() > LOG_RATIO_LIMIT
    if config.loss_type == "rloo":
        grad = -advantages
    elif config.loss_type == "cispo":
        absolute = config.cispo_bound == "absolute"
        grad = -(ratio.clamp(max=config.eps_high) if absolute else ratio.clamp(low, high)) * advantages
    else:
        flat = ((advantages < 0) & (ratio < low)) | ((advantages > 0) & (ratio > high))
        if config.dual_clip is not None:
            flat = flat | ((advantages < 0) & (ratio > config.dual_clip))
        flat = flat | clamped
        grad = torch.where(flat, 0, -advantages * ratio)
    grad = terms.correction * grad
    if batch.ref_logprobs is not None:
        kl_grad = _kl_grad(terms.logprobs - batch.ref_logprobs, config)
        if config.kl_ratio:
            kl = kl_term(terms.logprobs, batch.ref_logprobs.to(ratio.dtype), config)
            kl_grad = ratio * (kl_grad + torch.where(clamped, 0, kl))
        grad = grad + config.kl_coef * kl_grad
    weights = torch.where(computed, terms.weights, 0)
    return torch.where(computed, terms.weights * grad, 0), weights


def _kl_grad(difference: Tensor, config: LossConfig) -> Tensor:
    if config.kl_estimator == "k1":
        return torch.ones_like(difference)
    if config.kl_estimator == "k2":
        return difference
    return torch.where(difference.abs() > LOG_RATIO_LIMIT, 0, -torch.expm1(-difference))


def scatter(values: Tensor, rows: Tensor | None, selection: Selection) -> Tensor:
    """Scatter values [n] to the rows of [T]; 0 elsewhere."""
    if rows is None:
        return values
    num_tokens = selection.computed.shape[0]
    return values.new_zeros(num_tokens + 1).index_copy(0, rows, values)[:num_tokens]


def gather(values: Tensor, rows: Tensor | None) -> Tensor:
    """Gather values [T] at rows [n]; 0 for padding."""
    if rows is None:
        return values
    return torch.cat([values, values.new_zeros(1)]).index_select(0, rows)


def _identity(name: str, like: Tensor) -> Tensor:
    start = math.inf if name.endswith("_min") else -math.inf if name.endswith("_max") else 0.0
    return torch.full_like(like, start, dtype=torch.float64).detach()
