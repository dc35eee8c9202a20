"""Definition of grpo_loss: plain tensors, autograd for the gradients."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastrl.kernels._batch import LossBatch, sequence_of_tokens, sequence_sum, token_advantages
from fastrl.kernels.config import LossConfig

LOG_RATIO_LIMIT = 20.0


def grpo_loss_reference(
    logprobs: Tensor, entropy: Tensor | None, batch: LossBatch
) -> tuple[Tensor, dict[str, Tensor]]:
    """(loss, stats) of the tokens in batch.computed; lengths are counted over batch.loss_mask."""
    config = batch.config
    current = logprobs.detach()
    old = current if batch.old_logprobs is None else batch.old_logprobs.to(logprobs.dtype)
    sequence = sequence_of_tokens(batch.cu_seqlens, logprobs.shape[0])
    lengths = sequence_sum(batch.loss_mask.to(logprobs.dtype), sequence, batch)
    advantages = token_advantages(batch, sequence).to(logprobs.dtype)
    correction, stats = _correction(old, sequence, batch)

    log_ratio = logprobs - old
    if config.loss_type == "gspo":
        mean = sequence_sum(log_ratio.detach() * batch.loss_mask, sequence, batch) / lengths.clamp(min=1)
        log_ratio = logprobs - current + mean[sequence]
    ratio = log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    policy, clipped_low, clipped_high = _policy_term(logprobs, ratio, advantages, config)

    token_loss = correction * policy
    stats |= {"ratio_sum": ratio, "clip_low_sum": clipped_low, "clip_high_sum": clipped_high}
    if batch.ref_logprobs is not None:
        kl = _kl(logprobs, batch.ref_logprobs.to(logprobs.dtype), config)
        token_loss = token_loss + config.kl_coef * kl
        stats["kl_sum"] = kl
    if entropy is not None:
        token_loss = token_loss - config.entropy_coef * entropy
        stats["entropy_sum"] = entropy

    weights = torch.full_like(current, 1 / batch.denominator)
    if config.averages_sequences:
        weights = weights / lengths.clamp(min=1)[sequence]
    zero = torch.zeros((), dtype=logprobs.dtype, device=logprobs.device)
    loss = torch.where(batch.computed, weights * token_loss, zero).sum()
    return loss, _reduce(stats, ratio, batch)


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
    return log_ratio.exp() - log_ratio - 1


def _correction(old: Tensor, sequence: Tensor, batch: LossBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """(weight of each token's policy term, per-token values of the stats that come with it)."""
    config = batch.config
    if batch.rollout_logprobs is None:
        return torch.ones_like(old), {}
    difference = old - batch.rollout_logprobs.to(old.dtype)
    known = ~difference.isnan()
    difference = torch.where(known, difference, 0)
    stats = {
        "rollout_diff_sum": torch.where(known, difference.abs(), 0),
        "rollout_diff_max": torch.where(known, difference.abs(), -math.inf),
        "rollout_diff_count_sum": known,
    }
    if config.correction == "none":
        return torch.ones_like(old), stats
    per_sequence = config.corrects_sequences
    if per_sequence:
        difference = sequence_sum(difference * batch.loss_mask, sequence, batch)[sequence]
    weight = difference.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    if config.correction.endswith("truncate"):
        weight = weight.clamp(max=config.correction_cap)
    else:
        weight = torch.where(weight > config.correction_cap, 0, weight)
    share = torch.ones_like(weight)
    if per_sequence:
        share = 1 / sequence_sum(batch.computed.to(old.dtype), sequence, batch).clamp(min=1)[sequence]
    stats |= {"correction_sum": weight * share, "correction_count_sum": share}
    stats |= {"correction_min": weight, "correction_max": weight}
    return weight, stats


def _reduce(values: dict[str, Tensor], ratio: Tensor, batch: LossBatch) -> dict[str, Tensor]:
    """Fold per-token values over the computed tokens by the suffix of their name."""
    values = values | {"ratio_min": ratio, "ratio_max": ratio}
    values |= {"computed_tokens_sum": torch.ones_like(ratio)}
    computed = batch.computed
    stats = {"num_tokens_sum": batch.loss_mask.sum(dtype=torch.float64)}
    for name, value in values.items():
        value = value.detach().double()
        if name.endswith("_sum"):
            stats[name] = torch.where(computed, value, 0.0).sum()
            continue
        sign = 1 if name.endswith("_max") else -1
        lowest = torch.full((1,), -math.inf, dtype=torch.float64, device=value.device)
        stats[name] = sign * torch.cat([torch.where(computed, sign * value, -math.inf), lowest]).max()
    return stats
