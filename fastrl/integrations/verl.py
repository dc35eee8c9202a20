"""Registers fastrl's policy losses with verl when imported.

    actor_rollout_ref.actor.policy_loss.loss_mode=fastrl_ppo   # fastrl_gspo, fastrl_cispo, fastrl_reinforce

They have the signature and the results of verl's own losses: clip ranges, dual clip, aggregation over the
global batch, and rollout weights. verl imports this module itself if fastrl is installed (entry point
verl.plugins).
"""

from __future__ import annotations

from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor
from verl.trainer.ppo.core_algos import register_policy_loss

from fastrl.config import refuse
from fastrl.kernels.config import LossType
from fastrl.ops import LossConfig, grpo_loss

KNOWN = "0.9."
LOSSES: dict[str, LossType] = {
    "fastrl_ppo": "dapo",
    "fastrl_gspo": "gspo",
    "fastrl_cispo": "cispo",
    "fastrl_reinforce": "rloo",
}
AGGREGATIONS = (
    "token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-sum-norm", "seq-mean-token-mean",
)  # fmt: skip


def policy_loss(
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    loss_agg_mode: str = "token-mean",
    config: Any = None,
    rollout_is_weights: Tensor | None = None,
    *,
    loss_type: LossType,
) -> tuple[Tensor, dict[str, float]]:
    """Compute the loss of [B, L] tensors with verl's aggregation, and verl's metrics.

    Args:
        config: verl's ActorConfig; its clip ranges and global_batch_info are used.
        rollout_is_weights: importance weights of verl's rollout correction.
        loss_type: fastrl's loss: dapo (verl's vanilla), gspo, cispo or rloo (reinforce).
    Raises:
        ValueError: an unknown aggregation, or data parallelism without the sizes of the global batch.
    """
    mask = response_mask.bool()
    lengths = mask.sum(1)
    wanted = token_weights(mask, loss_agg_mode, **config.global_batch_info)
    if loss_type == "gspo":  # grpo_loss divides gspo by the length
        wanted = wanted * lengths[:, None]
    if rollout_is_weights is not None:
        wanted = wanted * rollout_is_weights
    ours = loss_config(config, loss_type)
    old = None if loss_type == "rloo" else old_log_prob[mask].detach()
    bounds = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).int()
    out = grpo_loss(
        log_prob[mask],
        cu_seqlens=bounds,
        advantages=(advantages * wanted)[mask],  # losses are proportional to the advantage
        loss_mask=torch.ones(int(bounds[-1]), dtype=torch.bool, device=mask.device),
        old_logprobs=old,
        config=ours,
        denominator=1.0,
    )
    return out.loss, metrics(old_log_prob, log_prob.detach(), advantages, mask, ours)


def token_weights(
    mask: Tensor,
    loss_agg_mode: str,
    dp_size: int = 1,
    batch_num_tokens: float | None = None,
    global_batch_size: float | None = None,
    loss_scale_factor: float | None = None,
) -> Tensor:
    """Return the weight of each row's tokens in verl's aggregation, [B, 1]; ranks average the gradients."""
    if loss_agg_mode not in AGGREGATIONS:
        refuse("verl", "loss_agg_mode", " or ".join(AGGREGATIONS), loss_agg_mode)
    lengths = mask.sum(1, keepdim=True).double()
    total = batch_num_tokens if loss_agg_mode == "token-mean" else global_batch_size
    name = "batch_num_tokens" if loss_agg_mode == "token-mean" else "global_batch_size"
    if total is None and loss_agg_mode != "token-sum":
        if dp_size > 1:
            refuse("verl", name, f"a number, as dp_size is {dp_size}", None)
        total = float(lengths.sum() if loss_agg_mode == "token-mean" else (lengths > 0).sum())
    weights = torch.full_like(lengths, float(dp_size))
    if loss_agg_mode == "token-sum":
        return weights.float()
    weights /= max(1.0, float(total or 0))
    if loss_agg_mode == "seq-mean-token-mean":
        weights /= lengths.clamp(min=1)
    if loss_agg_mode == "seq-mean-token-sum-norm":
        weights /= mask.shape[1] if loss_scale_factor is None else loss_scale_factor
    return weights.float()


def loss_config(config: Any, loss_type: LossType) -> LossConfig:
    """Convert verl's ActorConfig."""
    low = config.clip_ratio if config.clip_ratio_low is None else config.clip_ratio_low
    high = config.clip_ratio if config.clip_ratio_high is None else config.clip_ratio_high
    return LossConfig(
        loss_type=loss_type,
        clip_eps_low=low,
        clip_eps_high=high,
        cispo_bound="around_one",
        dual_clip=config.get("clip_ratio_c", 3.0) if loss_type == "dapo" else None,
        correction="none",
    )


@torch.no_grad()
def metrics(
    old: Tensor, current: Tensor, advantages: Tensor, mask: Tensor, config: LossConfig
) -> dict[str, float]:
    """Compute verl's metrics, as means over the micro-batch."""
    log_ratio = (current - old) * mask
    found = {"actor/ppo_kl": mean(-log_ratio, mask)}
    if config.loss_type == "rloo":
        return found
    if config.loss_type == "gspo":
        log_ratio = (log_ratio.sum(1) / mask.sum(1).clamp(min=1))[:, None].expand_as(mask)
    ratio = log_ratio.exp()
    low, high = ratio < 1 - config.clip_eps_low, ratio > 1 + config.eps_high
    clipped = low | high
    if config.loss_type != "cispo":
        clipped = (low & (advantages < 0)) | (high & (advantages > 0))
    capped = torch.zeros_like(clipped)
    if config.dual_clip is not None:
        capped = (ratio > config.dual_clip) & (advantages < 0)
    named = {"actor/pg_clipfrac": clipped, "actor/pg_clipfrac_lower": capped}
    return found | {name: mean(tensor.float(), mask) for name, tensor in named.items()}


def mean(values: Tensor, mask: Tensor) -> float:
    return float((values * mask).sum() / mask.sum().clamp(min=1))


def register() -> None:
    """Register the losses; raise RuntimeError if verl is not a supported release."""
    found = version("verl")
    if not found.startswith(KNOWN):
        raise RuntimeError(f"[verl] version: expected {KNOWN}x, got {found}")
    for name, loss_type in LOSSES.items():
        register_policy_loss(name)(partial(policy_loss, loss_type=loss_type))


register()
