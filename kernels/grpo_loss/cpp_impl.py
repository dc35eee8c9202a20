"""grpo_loss in C++ on the CPU: the loss, every slope and the statistics in one pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import fastrl._C as _C
from fastrl.kernels._batch import LossBatch
from fastrl.kernels.config import LossConfig

POLICY = {"gspo": 1, "cispo_absolute": 2, "cispo_around_one": 3, "rloo": 4}
CLIPPED_RATIO = 0  # every other loss
KL = {"k1": 1, "k2": 2, "k3": 3}
CORRECTION = {"none": 0, "truncate": 1, "mask": 2}
STATS = (
    "loss", "computed_tokens_sum", "entropy_sum", "kl_sum", "clip_low_sum", "clip_high_sum",
    "ratio_sum", "ratio_min", "ratio_max",
    "correction_sum", "correction_count_sum", "correction_min", "correction_max",
    "rollout_diff_sum", "rollout_diff_count_sum", "rollout_diff_max",
)  # fmt: skip


def native_config(config: LossConfig) -> Any:
    policy = f"cispo_{config.cispo_bound}" if config.loss_type == "cispo" else config.loss_type
    return _C.GrpoConfig.of(
        policy=POLICY.get(policy, CLIPPED_RATIO),
        low=1 - config.clip_eps_low,
        high=config.eps_high if policy == "cispo_absolute" else 1 + config.eps_high,
        dual_clip=config.dual_clip or 0.0,
        kl=KL[config.kl_estimator],
        kl_coef=config.kl_coef,
        entropy_coef=config.entropy_coef,
        correction=CORRECTION[config.correction.split("_")[-1]],
        correct_sequences=config.corrects_sequences,
        correction_cap=config.correction_cap,
    )


def grpo_slopes_cpp(
    logprobs: Tensor, entropy: Tensor | None, batch: LossBatch
) -> tuple[Tensor, dict[str, Tensor]]:
    """(d loss / d logprobs [T] fp32, stats with "loss" among them)."""
    inputs = {
        "logprobs": logprobs,
        "advantages": batch.advantages,
        "weights": batch.weights,
        "old_logprobs": batch.old_logprobs,
        "ref_logprobs": batch.ref_logprobs,
        "rollout_logprobs": batch.rollout_logprobs,
        "entropy": entropy,
    }
    floats = {
        name: None if tensor is None else tensor.detach().to(torch.float32).contiguous()
        for name, tensor in inputs.items()
    }
    cu_seqlens = batch.cu_seqlens.contiguous()
    slopes = torch.empty(logprobs.shape[0], dtype=torch.float32)
    stats = torch.empty(len(STATS), dtype=torch.float64)
    tokens = _C.GrpoTokens.of(
        tokens=logprobs.shape[0],
        sequences=cu_seqlens.shape[0] - 1,
        cu_seqlens=cu_seqlens.data_ptr(),
        **{name: 0 if tensor is None else tensor.data_ptr() for name, tensor in floats.items()},
    )
    _C.grpo_loss_cpu(
        batch=tokens,
        config=native_config(batch.config),
        slopes=slopes.data_ptr(),
        stats=stats.data_ptr(),
        num_threads=torch.get_num_threads(),
    )
    return slopes, _named(stats, batch, entropy is not None)


def _named(stats: Tensor, batch: LossBatch, has_entropy: bool) -> dict[str, Tensor]:
    """The statistics that this batch has inputs for."""
    has_rollout = batch.rollout_logprobs is not None
    present = {
        "entropy": has_entropy,
        "kl": batch.ref_logprobs is not None,
        "rollout": has_rollout,
        "correction": has_rollout and batch.config.correction != "none",
    }
    named = zip(STATS, stats.unbind(), strict=True)
    return {name: value for name, value in named if present.get(name.split("_")[0], True)}


class _TokenLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logprobs: Tensor, entropy: Tensor | None, batch: LossBatch, stats: dict[str, Tensor]
    ) -> Tensor:
        slopes, found = grpo_slopes_cpp(logprobs, entropy, batch)
        stats |= found
        ctx.save_for_backward(slopes, batch.weights)
        ctx.entropy_coef = batch.config.entropy_coef
        return stats.pop("loss").to(torch.float32)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        slopes, weights = ctx.saved_tensors
        grad_entropy = weights * (-ctx.entropy_coef * grad_loss) if ctx.needs_input_grad[1] else None
        return slopes * grad_loss, grad_entropy, None, None


def grpo_loss_cpp(
    logprobs: Tensor, entropy: Tensor | None, batch: LossBatch
) -> tuple[Tensor, dict[str, Tensor]]:
    stats: dict[str, Tensor] = {}
    loss: Tensor = _TokenLoss.apply(logprobs, entropy, batch, stats)  # type: ignore[no-untyped-call]
    return loss, stats
