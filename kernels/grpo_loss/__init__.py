"""grpo_loss: the policy losses, from log-probs."""

from __future__ import annotations

import torch
from torch import Tensor

from fastrl.kernels._batch import LossBatch, make_batch
from fastrl.kernels._checks import FLOATS, check_bounds, check_dtype, check_token_vector, refuse
from fastrl.kernels._compiled import constant
from fastrl.kernels._dispatch import Backend, pick
from fastrl.kernels._outputs import LossOutput
from fastrl.kernels._tokens import present_stats
from fastrl.kernels.config import LossConfig
from fastrl.kernels.group_advantage import GroupRewards
from fastrl.kernels.grpo_loss.library import IMPLEMENTATIONS, grpo_loss_op
from fastrl.kernels.grpo_loss.reference import grpo_loss_reference, select_reference

OP = "grpo_loss"


def grpo_loss(
    logprobs: Tensor,
    *,
    cu_seqlens: Tensor,
    advantages: Tensor | GroupRewards,
    loss_mask: Tensor,
    old_logprobs: Tensor | None = None,
    ref_logprobs: Tensor | None = None,
    rollout_logprobs: Tensor | None = None,
    entropy: Tensor | None = None,
    config: LossConfig,
    denominator: float,
    backend: Backend = "auto",
) -> LossOutput:
    """Return the policy loss of packed sequences, from the log-probs of their tokens.

        loss = sum over tokens with loss_mask of
               weight * (correction * policy + kl_coef * kl - entropy_coef * entropy) / denominator
        weight = 1 / (loss tokens of the sequence) for grpo and gspo, otherwise 1
        ratio = exp(logprobs - old_logprobs), for gspo exp(mean of that over the sequence)

        grpo, dr_grpo, dapo, bnpo, gspo:
            policy = -min(ratio * A, clip(ratio, 1 - eps_low, 1 + eps_high) * A)
            and at most -dual_clip * A for A < 0
        cispo:
            policy = -stopgrad(min(ratio, eps_high)) * A * logprobs                           (absolute bound)
            policy = -stopgrad(clip(ratio, 1 - eps_low, 1 + eps_high)) * A * logprobs         (around one)
        rloo:
            policy = -A * logprobs

        kl = d (k1), d^2 / 2 (k2), exp(-d) + d - 1 (k3), with d = logprobs - ref_logprobs;
             times the ratio with kl_ratio
        correction = stopgrad(exp(old_logprobs - rollout_logprobs)), per token or multiplied over a sequence;
                     truncate: min with correction_cap; mask: 0 if above it

    gspo's gradient flows through each token's own log-prob, as in verl; if advantages and corrections are
    constant within a sequence, it equals the gradient of the formula.
    rloo is REINFORCE: no ratio and no clipping; only the correction weights stale samples.

    Args:
        logprobs: [T] of sampled tokens.
        cu_seqlens: [S+1] int32, offsets of the sequences, from 0 to T.
        advantages: [S] or [T]; if S = T, one per sequence. GroupRewards: computed here by group_advantage.
        loss_mask: [T] bool, True for tokens to train.
        old_logprobs: [T]; None: stopgrad(logprobs), so the ratio is 1.
        ref_logprobs: [T]; required if kl_coef is not 0; otherwise the KL is only measured.
        rollout_logprobs: [T]; None: no correction. NaN for tokens without one, whose factor is then 1.
        entropy: [T]; required if entropy_coef is not 0.
        denominator: > 0, LossConfig.denominator of the whole step.
    Returns: LossOutput; the loss is differentiable in logprobs and, if entropy_coef is not 0, in entropy.
        Stats: num_tokens_sum, computed_tokens_sum, ratio_sum, ratio_min, ratio_max, clip_low_sum and
        clip_high_sum (tokens); with ref_logprobs kl_sum; with entropy entropy_sum; with rollout_logprobs
        rollout_diff_sum, rollout_diff_max, rollout_diff_count_sum of |old - rollout|, and correction_sum,
        correction_min, correction_max, correction_count_sum of the weights (per token, or per sequence).
        A min over no tokens is inf, a max -inf.
    Numerics: log-ratios are clamped to [-20, 20] before exp, with gradient 0 outside.
    Source: GRPO arXiv:2402.03300, Dr. GRPO 2503.20783, DAPO 2503.14476, GSPO 2507.18071, CISPO 2506.13585,
        RLOO 2402.14740.
    """
    if logprobs.dim() != 1:
        refuse(OP, "logprobs", "shape (T,)", tuple(logprobs.shape))
    check_dtype(OP, "logprobs", logprobs, *FLOATS)
    check_token_vector(OP, "entropy", entropy, logprobs)
    optional = (old_logprobs, ref_logprobs, rollout_logprobs)
    batch = make_batch(OP, logprobs, cu_seqlens, advantages, loss_mask, optional, config, denominator)
    if config.entropy_coef != 0 and entropy is None:
        refuse(OP, "entropy", f"a tensor, as entropy_coef is {config.entropy_coef}", None)
    name = _choose(backend, logprobs.device, logprobs.dtype)
    accurate = torch.promote_types(logprobs.dtype, torch.float32)
    return _run(logprobs.to(accurate), None if entropy is None else entropy.to(accurate), batch, name)


def _run(logprobs: Tensor, entropy: Tensor | None, batch: LossBatch, name: str) -> LossOutput:
    if name == "reference":
        check_bounds(OP, batch.cu_seqlens, logprobs.shape[0])
        loss, stats = grpo_loss_reference(logprobs, entropy, batch, select_reference(batch, leave_out=False))
    else:
        loss, _, _, found = grpo_loss_op(
            logprobs,
            entropy,
            *batch.tensors(),
            batch.advantages_per_token,
            batch.config.encode(),
            batch.denominator,
            name,
        )
        stats = present_stats(found, batch, () if entropy is None else ("entropy",))
    stats["num_tokens_sum"] = batch.loss_mask.sum(dtype=torch.float64)
    detached = None if entropy is None else entropy.detach()
    return LossOutput(loss, logprobs.detach(), detached, stats, batch.loss_mask)


@constant
def _choose(backend: str, device: torch.device, dtype: torch.dtype) -> str:
    return pick(OP, backend, IMPLEMENTATIONS, device, dtype).name
