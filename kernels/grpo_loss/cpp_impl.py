"""grpo_loss in C++ on the CPU: the loss, every slope and the statistics in one pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastrl import _C
from fastrl.kernels._batch import LossBatch, sequence_of_tokens, sequence_sum, token_advantages
from fastrl.kernels.config import LossConfig

POLICY = {"gspo": 1, "cispo_absolute": 2, "cispo_around_one": 3, "rloo": 4}  # any other: 0, clipped ratio
KL = {"k1": 1, "k2": 2, "k3": 3}
CORRECTION = {"none": 0, "truncate": 1, "mask": 2}
STATS = (
    "loss", "computed_tokens_sum", "entropy_sum", "kl_sum", "clip_low_sum", "clip_high_sum",
    "ratio_sum", "ratio_min", "ratio_max",
    "correction_sum", "correction_count_sum", "correction_min", "correction_max",
    "rollout_diff_sum", "rollout_diff_count_sum", "rollout_diff_max",
)  # fmt: skip
MINS = [index for index, name in enumerate(STATS) if name.endswith("_min")]
MAXS = [index for index, name in enumerate(STATS) if name.endswith("_max")]


def native_config(config: LossConfig) -> Any:
    policy = f"cispo_{config.cispo_bound}" if config.loss_type == "cispo" else config.loss_type
    absolute = policy == "cispo_absolute"
    return _C.GrpoConfig.of(
        policy=POLICY.get(policy, 0),
        low=1 - config.clip_eps_low,
        high=config.eps_high if absolute else 1 + config.eps_high,
        dual_clip=config.dual_clip or 0.0,
        kl=KL[config.kl_estimator],
        kl_coef=config.kl_coef,
        entropy_coef=config.entropy_coef,
        correction=CORRECTION[config.correction.split("_")[-1]],
        correct_sequences=config.corrects_sequences,
        correction_cap=config.correction_cap,
    )


def token_weights(batch: LossBatch, sequence: Tensor) -> Tensor:
    """[T] fp32: what a token's loss is multiplied with; 0 where it is not computed."""
    weights = torch.full(batch.computed.shape, 1 / batch.denominator, device=batch.computed.device)
    if batch.config.averages_sequences:
        lengths = sequence_sum(batch.loss_mask.to(torch.float32), sequence, batch)
        weights /= lengths.clamp(min=1)[sequence]
    return weights.masked_fill_(~batch.computed, 0)


def as_float(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.detach().to(torch.float32).contiguous()


def address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def run_tokens(
    tokens: dict[str, Tensor | None], cu_seqlens: Tensor, config: LossConfig
) -> tuple[Tensor, Tensor]:
    """(slopes [n] fp32, stats fp64 in the order of STATS) of n tokens, all arrays contiguous fp32."""
    logprobs = tokens["logprobs"]
    assert logprobs is not None, "the one array that is never missing"
    slopes = torch.empty_like(logprobs)
    stats = torch.empty(len(STATS), dtype=torch.float64)
    batch = _C.GrpoTokens.of(
        tokens=logprobs.numel(),
        sequences=cu_seqlens.numel() - 1,
        cu_seqlens=cu_seqlens.data_ptr(),
        **{name: address(tensor) for name, tensor in tokens.items()},
    )
    _C.grpo_loss_cpu(
        batch=batch,
        config=native_config(config),
        slopes=slopes.data_ptr(),
        stats=stats.data_ptr(),
        num_threads=torch.get_num_threads(),
    )
    return slopes, stats


def named_stats(stats: Tensor, batch: LossBatch, has_entropy: bool) -> dict[str, Tensor]:
    """The statistics that this batch has inputs for."""
    named = dict(zip(STATS[1:], stats.unbind()[1:], strict=True))
    corrects = batch.config.correction != "none"
    for name in STATS[1:]:
        absent = (
            (name == "entropy_sum" and not has_entropy)
            or (name == "kl_sum" and batch.ref_logprobs is None)
            or (name.startswith("correction") and (batch.rollout_logprobs is None or not corrects))
            or (name.startswith("rollout") and batch.rollout_logprobs is None)
        )
        if absent:
            del named[name]
    named["num_tokens_sum"] = batch.loss_mask.sum(dtype=torch.float64)
    return named


class _TokenLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logprobs: Tensor, entropy: Tensor | None, batch: LossBatch) -> tuple[Tensor, Tensor]:
        sequence = sequence_of_tokens(batch.cu_seqlens, logprobs.shape[0])
        weights = token_weights(batch, sequence)
        tokens = {
            "logprobs": as_float(logprobs),
            "advantages": as_float(token_advantages(batch, sequence)),
            "weights": weights,
            "old_logprobs": as_float(batch.old_logprobs),
            "ref_logprobs": as_float(batch.ref_logprobs),
            "rollout_logprobs": as_float(batch.rollout_logprobs),
            "entropy": as_float(entropy),
        }
        slopes, stats = run_tokens(tokens, batch.cu_seqlens.contiguous(), batch.config)
        ctx.save_for_backward(slopes, weights)
        ctx.entropy_coef = batch.config.entropy_coef
        ctx.mark_non_differentiable(stats)
        return stats[0].to(torch.float32), stats

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, _: Any) -> tuple[Tensor, Tensor | None, None]:
        slopes, weights = ctx.saved_tensors
        grad_entropy = weights * (-ctx.entropy_coef * grad_loss) if ctx.needs_input_grad[1] else None
        return slopes * grad_loss, grad_entropy, None


def grpo_loss_cpp(
    logprobs: Tensor, entropy: Tensor | None, batch: LossBatch
) -> tuple[Tensor, dict[str, Tensor]]:
    loss, stats = _TokenLoss.apply(logprobs, entropy, batch)
    return loss, named_stats(stats, batch, entropy is not None)
