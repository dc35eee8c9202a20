"""Token math in Triton, in float64: one launch over the tokens, and one that reduces the blocks' sums."""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
from torch import Tensor

from fastrl.kernels._batch import LossBatch
from fastrl.kernels._tokens import STATS, Selection, TokenGrads, TokenScores
from fastrl.kernels.config import LossConfig
from fastrl.kernels.grpo_loss.triton_kernels import (
    fold_kernel,
    select_kernel,
    sequence_kernel,
    token_kernel,
)

BLOCK = 1024
# 4 tokens per thread, whose float64 values fit into registers; no FMA, so that all versions of Triton agree
OPTIONS: dict[str, Any] = {"num_warps": 8, "enable_fp_fusion": False}


class TritonTokens:
    """TokenMath in Triton; no host sync, and sums in a fixed order."""

    def select(self, batch: LossBatch, leave_out: bool) -> Selection:
        num_sequences = batch.cu_seqlens.shape[0] - 1
        loss_mask = batch.loss_mask.contiguous()
        computed = torch.empty_like(loss_mask)
        lengths = torch.empty(num_sequences, dtype=torch.int32, device=loss_mask.device)
        if num_sequences:
            select_kernel[(num_sequences,)](
                batch.cu_seqlens.contiguous(),
                batch.advantages.contiguous(),
                loss_mask,
                computed,
                lengths,
                PER_TOKEN=batch.advantages_per_token,
                LEAVE_OUT=leave_out and batch.skips_zero_advantage,
                WHOLE=batch.needs_whole_sequences,
                BLOCK=BLOCK,
                **OPTIONS,
            )
        return Selection(computed, lengths)

    def grads(self, batch: LossBatch, selection: Selection, scores: TokenScores) -> TokenGrads:
        logprobs = scores.logprobs
        num_tokens, device = logprobs.shape[0], logprobs.device
        blocks = triton.cdiv(num_tokens, BLOCK)
        grad_logprobs = torch.empty(num_tokens, dtype=torch.float32, device=device)
        grad_entropy = torch.empty_like(grad_logprobs) if batch.config.entropy_coef != 0 else None
        partials = torch.empty(len(STATS), blocks, dtype=torch.float64, device=device)
        stats = torch.empty(len(STATS), dtype=torch.float64, device=device)
        if num_tokens:
            inputs = _inputs(batch, selection, scores)
            token_kernel[(blocks,)](
                **inputs,
                **_others(batch, selection, scores),
                **_coefficients(batch.config),
                terms=_sequence_terms(batch, inputs) if batch.needs_whole_sequences else None,
                denominator=float(batch.denominator),
                SEQUENCE_RATIO=batch.config.loss_type == "gspo" and batch.old_logprobs is not None,
                SEQUENCE_CORRECTION=batch.config.corrects_sequences,
                grad_logprobs=grad_logprobs,
                grad_entropy=grad_entropy,
                partials=partials,
                blocks=blocks,
                **OPTIONS,
            )
        fold_kernel[(len(STATS),)](partials, blocks, stats, BLOCK=BLOCK, **OPTIONS)
        return TokenGrads(grad_logprobs, grad_entropy, stats)


def _sequence_terms(batch: LossBatch, inputs: dict[str, Any]) -> Tensor:
    """Return [3, S]: mean log-ratio, correction, 1 / number of computed tokens of each sequence."""
    num_sequences = inputs["num_sequences"]
    terms = torch.empty(3, num_sequences, dtype=torch.float64, device=batch.cu_seqlens.device)
    if num_sequences:
        cap = float(batch.config.correction_cap)
        sequence_kernel[(num_sequences,)](**inputs, terms=terms, cap=cap, **OPTIONS)
    return terms


def _inputs(batch: LossBatch, selection: Selection, scores: TokenScores) -> dict[str, Any]:
    """Return the arguments that the token and sequence kernels share."""
    corrects = batch.rollout_logprobs is not None
    return {
        "rows": scores.rows,
        "logprobs": scores.logprobs.contiguous(),
        "old_logprobs": _packed(batch.old_logprobs),
        "rollout_logprobs": _packed(batch.rollout_logprobs),
        "computed": selection.computed,
        "cu_seqlens": batch.cu_seqlens.contiguous(),
        "num_tokens": scores.logprobs.shape[0],
        "num_positions": selection.computed.shape[0],
        "num_sequences": batch.cu_seqlens.shape[0] - 1,
        "CORRECTION": batch.config.correction.rpartition("_")[2] if corrects else "none",
        "BLOCK": BLOCK,
    }


def _others(batch: LossBatch, selection: Selection, scores: TokenScores) -> dict[str, Any]:
    """Return further arguments of the token kernel."""
    return {
        "ref_logprobs": _packed(batch.ref_logprobs),
        "entropy": _packed(scores.entropy),
        "self_certainty": _packed(scores.self_certainty),
        "top1": _packed(scores.top1),
        "advantages": batch.advantages.contiguous(),
        "lengths": selection.lengths,
        "steps": selection.lengths.shape[0].bit_length(),
        "PER_TOKEN": batch.advantages_per_token,
    }


def _coefficients(config: LossConfig) -> dict[str, Any]:
    policy = {"rloo": "reinforce", "cispo": f"weight_{config.cispo_bound}"}.get(config.loss_type, "clip")
    absolute = policy == "weight_absolute"
    return {
        "low": 1.0 - config.clip_eps_low,
        "high": config.eps_high if absolute else 1.0 + config.eps_high,
        "dual_clip": math.inf if config.dual_clip is None else config.dual_clip,
        "kl_coef": float(config.kl_coef),
        "entropy_coef": float(config.entropy_coef),
        "cap": float(config.correction_cap),
        "POLICY": policy,
        "KL": config.kl_estimator,
        "KL_RATIO": config.kl_ratio,
        "SEQUENCE_MEAN": config.averages_sequences,
    }


def _packed(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()
