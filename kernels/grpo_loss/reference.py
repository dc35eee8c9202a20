"""Definition of grpo_loss: plain tensors, autograd for the gradients."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastrl.kernels._batch import LossBatch
from fastrl.kernels.config import LossConfig

LOG_RATIO_LIMIT = 20.0


def grpo_loss_reference(
    logprobs: Tensor, entropy: Tensor | None, batch: LossBatch
) -> tuple[Tensor, dict[str, Tensor]]:
    """(loss, stats) of the tokens in batch.computed."""
    config, sequence = batch.config, batch.sequence
    # Outside, inputs may be NaN: a token that is not computed must not reach its log-prob's gradient.
    logprobs = torch.where(batch.computed, logprobs, 0)
    current = logprobs.detach()
    old = current if batch.old_logprobs is None else batch.old_logprobs.to(logprobs.dtype)
    correction, stats = _correction(old, sequence, batch)

    log_ratio = logprobs - old
    if config.loss_type == "gspo":
        total = batch.sequence_sum(torch.where(batch.computed, log_ratio.detach(), 0), sequence)
        length = batch.sequence_sum(batch.computed.to(logprobs.dtype), sequence)
        log_ratio = logprobs - current + total / length.clamp(min=1)
    ratio = log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    advantages = batch.advantages.to(logprobs.dtype)
    policy, clipped_low, clipped_high = _policy_term(logprobs, ratio, advantages, config)

    token_loss = correction * policy
    stats |= {"clip_low_sum": clipped_low, "clip_high_sum": clipped_high}
    stats |= {"ratio_sum": ratio, "ratio_min": ratio, "ratio_max": ratio}
    if batch.ref_logprobs is not None:
        kl = _kl(logprobs, batch.ref_logprobs.to(logprobs.dtype), config)
        token_loss = token_loss + config.kl_coef * kl
        stats["kl_sum"] = kl
    if entropy is not None:
        token_loss = token_loss - config.entropy_coef * entropy
        stats["entropy_sum"] = entropy
    loss = torch.where(batch.computed, batch.weights.to(logprobs.dtype) * token_loss, 0).sum()
    return loss, _fold(stats, batch.computed)


def _policy_term(
    logprobs: Tensor, ratio: Tensor, advantages: Tensor, config: LossConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """(loss of each token before correction, clipped below, clipped above)."""
    low, high = 1 - config.clip_eps_low, 1 + config.eps_high
    nothing = torch.zeros_like(ratio, dtype=torch.bool)
    if config.loss_type == "rloo":
        return -advantages * logprobs, nothing, nothing
    if config.loss_type == "cispo":
        if config.cispo_bound == "absolute":
            weight = ratio.detach().clamp(max=config.eps_high)
            return -weight * advantages * logprobs, nothing, (ratio > config.eps_high) & (advantages > 0)
        weight = ratio.detach().clamp(low, high)
        return -weight * advantages * logprobs, ratio < low, ratio > high
    clipped_low = (advantages < 0) & (ratio < low)
    clipped_high = (advantages > 0) & (ratio > high)
    used = ratio
    if config.dual_clip is not None:
        used = torch.where((advantages < 0) & (ratio > config.dual_clip), config.dual_clip, used)
    used = torch.where(clipped_low, low, torch.where(clipped_high, high, used))
    return -advantages * used, clipped_low, clipped_high


def _kl(logprobs: Tensor, ref_logprobs: Tensor, config: LossConfig) -> Tensor:
    difference = logprobs - ref_logprobs
    if config.kl_estimator == "k1":
        return difference
    if config.kl_estimator == "k2":
        return difference.square() / 2
    log_ratio = (-difference).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return log_ratio.expm1() - log_ratio


def _correction(old: Tensor, sequence: Tensor, batch: LossBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """(weight of each token's policy term, per-token values of the stats that come with it)."""
    config = batch.config
    if batch.rollout_logprobs is None:
        return torch.ones_like(old), {}
    difference = old - batch.rollout_logprobs.to(old.dtype)
    known = ~difference.isnan()
    difference = torch.where(known, difference, 0)
    stats = {
        "rollout_diff_sum": difference.abs(),
        "rollout_diff_max": torch.where(known, difference.abs(), -math.inf),
        "rollout_diff_count_sum": known,
    }
    if config.correction == "none":
        return torch.ones_like(old), stats
    share = torch.ones_like(old)
    if config.corrects_sequences:
        difference = batch.sequence_sum(torch.where(batch.computed, difference, 0), sequence)
        share = 1 / batch.sequence_sum(batch.computed.to(old.dtype), sequence).clamp(min=1)
    weight = difference.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    if config.correction.endswith("truncate"):
        weight = weight.clamp(max=config.correction_cap)
    else:
        weight = torch.where(weight > config.correction_cap, 0, weight)
    stats |= {"correction_sum": weight * share, "correction_count_sum": share}
    stats |= {"correction_min": weight, "correction_max": weight}
    return weight, stats


def _fold(values: dict[str, Tensor], computed: Tensor) -> dict[str, Tensor]:
    """Fold per-token values over the computed tokens by the suffix of their name."""
    stats = {"computed_tokens_sum": computed.sum(dtype=torch.float64)}
    for name, value in values.items():
        value = value.detach().double()
        if name.endswith("_sum"):
            stats[name] = torch.where(computed, value, 0.0).sum()
            continue
        sign = 1 if name.endswith("_max") else -1
        nothing = value.new_full((1,), -math.inf)
        stats[name] = sign * torch.cat([torch.where(computed, sign * value, -math.inf), nothing]).max()
    return stats
