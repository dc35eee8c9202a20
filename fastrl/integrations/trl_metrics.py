"""Metrics of the loss under TRL's names."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastrl.integrations.trl_packing import PackedRows
from fastrl.ops import LossConfig, LossOutput


def loss_metrics(
    trainer: Any, config: LossConfig, inputs: dict[str, Any], packed: PackedRows, trained: Tensor,
    out: LossOutput,
) -> dict[str, float]:  # fmt: skip
    """Compute entropy, kl and fractions of clipped ratios over all processes.

    Without a KL term and an entropy bonus, rows with zero advantage are not run: their tokens count as not
    clipped and are excluded from the entropy.

    Args:
        trained: [B, C] bool, the tokens in the loss.
    """
    total = trained.sum()
    used = packed.of(trained) & out.computed
    assert out.entropy is not None, "linear_grpo_loss computes it"
    found = {"entropy": mean(trainer, out.entropy[used].sum(), used.sum())}
    if config.kl_coef:
        found["kl"] = mean(trainer, out.stats["kl_sum"], total)
    if config.loss_type == "rloo":
        return found
    log_ratio = torch.zeros(trained.shape, device=trained.device)
    old = packed.of_optional(inputs.get("old_per_token_logps"))
    if old is not None:
        log_ratio[packed.tokens] = out.logprobs - old
    log_ratio = log_ratio * trained
    advantages = inputs["advantages"]
    advantages = advantages[:, None] if advantages.dim() == 1 else advantages
    if config.loss_type == "cispo":
        high = (log_ratio.exp() > config.eps_high) & (advantages > 0) & trained
        return found | {"cispo_clip_ratio": mean(trainer, high.sum(), total)}
    counted, lengths = trained, trained.sum(1)
    if config.loss_type == "gspo":
        log_ratio = (log_ratio.sum(1) / lengths.clamp(min=1))[:, None]
        counted = torch.ones_like(log_ratio, dtype=torch.bool)
    ratio = log_ratio.exp()
    low = (ratio < 1 - config.clip_eps_low) & (advantages < 0) & counted
    high = (ratio > 1 + config.eps_high) & (advantages > 0) & counted
    for name, clipped in (("low", low), ("high", high), ("region", low | high)):
        found[f"clip_ratio/{name}_mean"] = mean(trainer, clipped.sum(), counted.sum())
    shares = [trainer.accelerator.gather(tokens.sum(1) / counted.sum(1)) for tokens in (low, high)]
    found["clip_ratio/low_min"] = shares[0][~shares[0].isnan()].min().item()
    found["clip_ratio/high_max"] = shares[1][~shares[1].isnan()].max().item()
    return found


def mean(trainer: Any, total: Tensor, count: Tensor) -> float:
    """Return total / count, summed over processes; 0 if the count is 0."""
    both = torch.stack([total.float(), count.float()]).detach()
    total, count = trainer.accelerator.reduce(both, reduction="sum")
    return (total / count.clamp(min=1)).item()
