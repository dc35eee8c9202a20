"""Definition of grpo_loss: plain tensors, autograd for the gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fastrl.kernels._batch import LossBatch
from fastrl.kernels._tokens import Selection
from fastrl.kernels.config import LossConfig

LOG_RATIO_LIMIT = 20.0


def select_reference(batch: LossBatch, leave_out: bool) -> Selection:
    sequence, computed = _sequences(batch), batch.loss_mask
    lengths = _sequence_sum(batch.loss_mask.to(torch.int32), sequence, batch)
    if leave_out and batch.skips_zero_advantage:
        computed = batch.loss_mask & (_token_advantages(batch, sequence) != 0)
        if batch.needs_whole_sequences:
            some = _sequence_sum(computed.to(torch.int32), sequence, batch) > 0
            computed = batch.loss_mask & some[sequence]
    return Selection(computed, lengths)


@dataclass(frozen=True, slots=True)
class LossTerms:
    """Terms of each token's loss, [T]."""

    logprobs: Tensor
    log_ratio: Tensor
    ratio: Tensor
    advantages: Tensor
    correction: Tensor
    weights: Tensor
    stats: dict[str, Tensor]


def loss_terms(logprobs: Tensor, batch: LossBatch, selection: Selection) -> LossTerms:
    config, sequence, computed = batch.config, _sequences(batch), selection.computed
    current = logprobs.detach()
    old = current if batch.old_logprobs is None else batch.old_logprobs.to(logprobs.dtype)
    correction, stats = _correction(old, sequence, batch, computed)
    log_ratio = logprobs - old
    if config.loss_type == "gspo":
        inside = torch.where(computed, log_ratio.detach(), 0)
        total = _sequence_sum(inside, sequence, batch)[sequence]
        length = _sequence_sum(computed.to(logprobs.dtype), sequence, batch)[sequence]
        log_ratio = logprobs - current + total / length.clamp(min=1)
    ratio = log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    advantages = _token_advantages(batch, sequence).to(logprobs.dtype)
    weights = torch.full_like(current, 1 / batch.denominator)
    if config.averages_sequences:
        weights = weights / selection.lengths.clamp(min=1)[sequence]
    return LossTerms(logprobs, log_ratio, ratio, advantages, correction, weights, stats)


def grpo_loss_reference(
    logprobs: Tensor, entropy: Tensor | None, batch: LossBatch, selection: Selection
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return (loss, stats) of the tokens in selection.computed; logprobs and entropy are [T]."""
    config, computed = batch.config, selection.computed
    # tokens that are not computed may be NaN, which must not reach the gradient
    logprobs = torch.where(computed, logprobs, 0)
    terms = loss_terms(logprobs, batch, selection)
    ratio, stats = terms.ratio, dict(terms.stats)
    policy, clipped_low, clipped_high = _policy_term(logprobs, ratio, terms.advantages, config)
    token_loss = terms.correction * policy
    stats |= {"clip_low_sum": clipped_low, "clip_high_sum": clipped_high}
    stats |= {"ratio_sum": ratio, "ratio_min": ratio, "ratio_max": ratio}
    if batch.ref_logprobs is not None:
        kl = kl_term(logprobs, batch.ref_logprobs.to(logprobs.dtype), config)
        if config.kl_ratio:
            kl = kl * ratio
        token_loss = token_loss + config.kl_coef * kl
        stats["kl_sum"] = kl
    if entropy is not None:
        token_loss = token_loss - config.entropy_coef * entropy
        stats["entropy_sum"] = entropy
    loss = torch.where(computed, terms.weights * token_loss, 0).sum()
    return loss, _fold(stats, computed)


def _sequences(batch: LossBatch) -> Tensor:
    """Return the sequence of each token, [T] int64."""
    index = torch.arange(batch.cu_seqlens.shape[0] - 1, device=batch.cu_seqlens.device)
    return torch.repeat_interleave(index, batch.cu_seqlens.diff(), output_size=batch.loss_mask.shape[0])


def _sequence_sum(values: Tensor, sequence: Tensor, batch: LossBatch) -> Tensor:
    return values.new_zeros(batch.cu_seqlens.shape[0] - 1).index_add(0, sequence, values)


def _token_advantages(batch: LossBatch, sequence: Tensor) -> Tensor:
    return batch.advantages if batch.advantages_per_token else batch.advantages[sequence]


def _policy_term(
    logprobs: Tensor, ratio: Tensor, advantages: Tensor, config: LossConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (policy term of each token before the correction, clipped below, clipped above)."""
    low, high = 1 - config.clip_eps_low, 1 + config.eps_high
    none = torch.zeros_like(ratio, dtype=torch.bool)
    if config.loss_type == "rloo":
        return -advantages * logprobs, none, none
    if config.loss_type == "cispo":
        if config.cispo_bound == "absolute":
            weight = ratio.detach().clamp(max=config.eps_high)
            return -weight * advantages * logprobs, none, (ratio > config.eps_high) & (advantages > 0)
        weight = ratio.detach().clamp(low, high)
        return -weight * advantages * logprobs, ratio < low, ratio > high
    clipped_low = (advantages < 0) & (ratio < low)
    clipped_high = (advantages > 0) & (ratio > high)
    used = ratio
    if config.dual_clip is not None:
        used = torch.where((advantages < 0) & (ratio > config.dual_clip), config.dual_clip, used)
    used = torch.where(clipped_low, low, torch.where(clipped_high, high, used))
    return -advantages * used, clipped_low, clipped_high


def kl_term(logprobs: Tensor, ref_logprobs: Tensor, config: LossConfig) -> Tensor:
    difference = logprobs - ref_logprobs
    if config.kl_estimator == "k1":
        return difference
    if config.kl_estimator == "k2":
        return difference.square() / 2
    log_ratio = (-difference).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return log_ratio.expm1() - log_ratio


def _correction(
    old: Tensor, sequence: Tensor, batch: LossBatch, computed: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return (weight of each token's policy term, per-token values of its statistics)."""
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
        inside = torch.where(computed, difference, 0)
        difference = _sequence_sum(inside, sequence, batch)[sequence]
        share = 1 / _sequence_sum(computed.to(old.dtype), sequence, batch).clamp(min=1)[sequence]
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
        identity = value.new_full((1,), -math.inf)
        stats[name] = sign * torch.cat([torch.where(computed, sign * value, -math.inf), identity]).max()
    return stats
