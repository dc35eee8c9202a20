"""Token math: the policy losses per token, the interface that cpp, triton, cuda and torch implement."""

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
    """Return by name the statistics whose inputs were given.

    Args:
        scores: names of the scores given in addition to logprobs.
    """
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
    """The tokens to compute, and the number of loss tokens per sequence."""

    computed: Tensor
    """[T] bool."""
    lengths: Tensor
    """[S] int32: tokens of each sequence with loss_mask."""


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Scores of n computed tokens, fp32 (float64 in the reference)."""

    rows: Tensor | None
    """[n] int64, rising: the tokens' indices in [0, T), then padding T, which is ignored. None: all T tokens,
    of which those not in selection.computed are ignored."""
    logprobs: Tensor
    entropy: Tensor | None
    self_certainty: Tensor | None
    top1: Tensor | None
    """bool."""


@dataclass(frozen=True, slots=True)
class TokenGrads:
    """Gradients of the loss in the scores of the same n tokens; 0 for ignored ones."""

    grad_logprobs: Tensor
    """fp32: d loss / d logprobs."""
    grad_entropy: Tensor | None
    """fp32: d loss / d entropy; None if config.entropy_coef is 0."""
    stats: Tensor
    """[len(STATS)] float64, sums and extremes over the n tokens; 0, inf and -inf if there are none."""


def fold_stats(parts: Sequence[Tensor]) -> Tensor:
    """Combine the statistics of several sets of tokens into those of their union."""
    if len(parts) == 1:
        return parts[0]
    stacked = torch.stack(list(parts))
    total, smallest, largest = stacked.sum(0), stacked.amin(0), stacked.amax(0)
    for index, name in enumerate(STATS):
        if name.endswith(("_min", "_max")):
            total[index] = (smallest if name.endswith("_min") else largest)[index]
    return total


class TokenMath(Protocol):
    """Selection of tokens, and their gradients.

    The weight of a token is 1 / denominator, with config.averages_sequences also divided by the number of
    loss tokens of its sequence.
    """

    def select(self, batch: LossBatch, leave_out: bool) -> Selection:
        """Return the selection with computed = loss_mask.

        With leave_out, and if the batch skips_zero_advantage, tokens of advantage 0 are not computed; if it
        needs_whole_sequences, only sequences whose advantages are all 0 are left out.
        """

    def grads(self, batch: LossBatch, selection: Selection, scores: TokenScores) -> TokenGrads:
        """Return the gradients of the loss and its statistics.

        Sums over a sequence cover its tokens among the n. If the batch needs_whole_sequences, these must
        include all its computed tokens.
        """
