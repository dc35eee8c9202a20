"""Arguments of the C++ and CUDA token math: structures of addresses, and the tensors that own the memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import fastrl._C as _C
from fastrl.kernels._batch import LossBatch
from fastrl.kernels._tokens import STATS, Selection, TokenGrads, TokenScores
from fastrl.kernels.config import LossConfig

POLICY = {"gspo": 1, "cispo_absolute": 2, "cispo_around_one": 3, "rloo": 4}
CLIPPED_RATIO = 0  # every other loss
KL = {"k1": 1, "k2": 2, "k3": 3}
CORRECTION = {"none": 0, "truncate": 1, "mask": 2}


def native_config(config: LossConfig) -> Any:
    policy = f"cispo_{config.cispo_bound}" if config.loss_type == "cispo" else config.loss_type
    return _C.GrpoConfig.of(
        policy=POLICY.get(policy, CLIPPED_RATIO),
        low=1 - config.clip_eps_low,
        high=config.eps_high if policy == "cispo_absolute" else 1 + config.eps_high,
        dual_clip=config.dual_clip or 0.0,
        kl=KL[config.kl_estimator],
        kl_coef=config.kl_coef,
        kl_ratio=config.kl_ratio,
        entropy_coef=config.entropy_coef,
        average_sequences=config.averages_sequences,
        correction=CORRECTION[config.correction.split("_")[-1]],
        correct_sequences=config.corrects_sequences,
        correction_cap=config.correction_cap,
    )


@dataclass(frozen=True, slots=True)
class Native:
    """A structure of addresses, and the tensors that own the memory."""

    structure: Any
    tensors: tuple[Tensor | None, ...]


def native_batch(batch: LossBatch) -> Native:
    cu_seqlens, loss_mask = batch.cu_seqlens.contiguous(), batch.loss_mask.contiguous()
    others = (batch.advantages, batch.old_logprobs, batch.ref_logprobs, batch.rollout_logprobs)
    floats = [None if t is None else t.detach().to(torch.float32).contiguous() for t in others]
    structure = _C.GrpoBatch.of(
        tokens=loss_mask.shape[0],
        sequences=cu_seqlens.shape[0] - 1,
        cu_seqlens=cu_seqlens.data_ptr(),
        advantages=address(floats[0]),
        advantages_per_token=batch.advantages_per_token,
        loss_mask=loss_mask.data_ptr(),
        old_logprobs=address(floats[1]),
        ref_logprobs=address(floats[2]),
        rollout_logprobs=address(floats[3]),
        denominator=batch.denominator,
    )
    return Native(structure, (cu_seqlens, loss_mask, *floats))


def native_selection(selection: Selection) -> Any:
    return _C.GrpoSelection.of(selection.computed.data_ptr(), selection.lengths.data_ptr())


def native_scores(scores: TokenScores) -> Native:
    rows = None if scores.rows is None else scores.rows.contiguous()
    values = (scores.logprobs, scores.entropy, scores.self_certainty)
    floats = [None if t is None else t.detach().to(torch.float32).contiguous() for t in values]
    top1 = None if scores.top1 is None else scores.top1.contiguous()
    logprobs, entropy, self_certainty = (address(t) for t in floats)
    structure = _C.GrpoScores.of(
        scores.logprobs.shape[0], address(rows), logprobs, entropy, self_certainty, address(top1)
    )
    return Native(structure, (rows, top1, *floats))


def empty_selection(batch: LossBatch) -> Selection:
    lengths = torch.empty(batch.cu_seqlens.shape[0] - 1, dtype=torch.int32, device=batch.cu_seqlens.device)
    return Selection(torch.empty_like(batch.loss_mask), lengths)


def empty_grads(batch: LossBatch, scores: TokenScores) -> TokenGrads:
    count, device = scores.logprobs.shape[0], scores.logprobs.device
    has_entropy = batch.config.entropy_coef != 0
    return TokenGrads(
        torch.empty(count, dtype=torch.float32, device=device),
        torch.empty(count, dtype=torch.float32, device=device) if has_entropy else None,
        torch.empty(len(STATS), dtype=torch.float64, device=device),
    )


def native_results(grads: TokenGrads) -> Any:
    return _C.GrpoResults.of(
        grads.grad_logprobs.data_ptr(), address(grads.grad_entropy), grads.stats.data_ptr()
    )


def address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
