"""The policy losses per token: the interface that cpp, triton, cuda and torch implement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fastrl.kernels._batch import LossBatch

STATS = (
    "loss", "computed_tokens_sum", "entropy_sum", "kl_sum", "clip_low_sum", "clip_high_sum",
    "ratio_sum", "ratio_min", "ratio_max",
    "correction_sum", "correction_count_sum", "correction_min", "correction_max",
    "rollout_diff_sum", "rollout_diff_count_sum", "rollout_diff_max",
    "self_certainty_sum", "top1_sum",
)  # fmt: skip


def present_stats(stats: Tensor, batch: LossBatch, scores: tuple[str, ...]) -> dict[str, Tensor]:
    """Return the statistics that there were inputs for, by name. scores: those given besides logprobs."""
    has_rollout = batch.rollout_logprobs is not None
    absent = {"loss"} | {"entropy_sum", "self_certainty_sum", "top1_sum"} - {f"{name}_sum" for name in scores}
    if batch.ref_logprobs is None:
        absent |= {"kl_sum"}
    if not has_rollout:
        absent |= {name for name in STATS if name.startswith("rollout_diff")}
    if not has_rollout or batch.config.correction == "none":
        absent |= {name for name in STATS if name.startswith("correction")}
    named = zip(STATS, stats.unbind(), strict=True)
    return {name: value for name, value in named if name not in absent}


@dataclass(frozen=True, slots=True)
class Selection:
    """Which tokens are computed, and how many a sequence trains."""

    computed: Tensor
    """[T] bool."""
    lengths: Tensor
    """[S] int32: tokens of the sequence that loss_mask holds."""


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Scores of n computed tokens, fp32 (float64 in the reference)."""

    rows: Tensor | None
    """[n] int64, rising: the tokens' places in [0, T), then places that are T, which count for nothing.
    None: all T of them, of which those that selection.computed leaves out count for nothing."""
    logprobs: Tensor
    entropy: Tensor | None
    self_certainty: Tensor | None
    top1: Tensor | None
    """bool."""


@dataclass(frozen=True, slots=True)
class TokenGrads:
    """Gradients of the loss in the scores of the same n tokens; 0 if they count for nothing."""

    grad_logprobs: Tensor
    """fp32: d loss / d logprobs."""
    grad_entropy: Tensor | None
    """fp32: d loss / d entropy; None where config.entropy_coef is 0."""
    stats: Tensor
    """[len(STATS)] float64, sums and extremes over the n tokens; 0, inf and -inf over none."""


def fold_stats(parts: Sequence[Tensor]) -> Tensor:
    """Combine the statistics of several sets of tokens into those of their union."""
    if len(parts) == 1:
        return parts[0]
    together = torch.stack(list(parts))
    total, least, most = together.sum(0), together.amin(0), together.amax(0)
    for place, name in enumerate(STATS):
        if name.endswith(("_min", "_max")):
            total[place] = (least if name.endswith("_min") else most)[place]
    return total


class TokenMath(Protocol):
    """weight of a token = 1 / denominator, over its sequence's length too where config.averages_sequences."""

    def select(self, batch: LossBatch, leave_out: bool) -> Selection:
        """computed = loss_mask; with leave_out, and where idle tokens leave, without those of advantage 0,
        by whole sequences where the batch needs them: a sequence is computed, or none of its tokens is."""

    def grads(self, batch: LossBatch, selection: Selection, scores: TokenScores) -> TokenGrads:
        """Return the gradients of the loss and its statistics. Sums over a sequence run over its tokens among
        the n; where the batch needs whole sequences, all its computed tokens are among them."""
