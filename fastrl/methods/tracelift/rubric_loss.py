"""Outputs and loss of the reasoning reward model (TraceLift, arXiv 2605.03862)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fastrl.config import RubricLossConfig
from fastrl.methods.tracelift.rubric_dimensions import NUM_LEVELS

NUM_DIMENSIONS = 5


@dataclass(frozen=True, slots=True)
class Judgments:
    """The heads' outputs for S traces.

    dimensions[s, k] = sum_c c softmax_c(level_logits[s, k]),   c = 0 .. 4
    scores[s] = 0.5 * mean_k dimensions[s, k] / 4 + 0.5 * sigmoid(total_logits[s])
    """

    level_logits: Tensor
    """[S, 5 dimensions, 5 levels]."""
    total_logits: Tensor
    """[S]."""

    @property
    def dimensions(self) -> Tensor:
        """[S, 5] in [0, 4]: the expected level of each dimension."""
        levels = torch.arange(NUM_LEVELS, dtype=self.level_logits.dtype, device=self.level_logits.device)
        return self.level_logits.softmax(-1) @ levels

    @property
    def scores(self) -> Tensor:
        """[S] in [0, 1]."""
        derived = self.dimensions.mean(-1) / (NUM_LEVELS - 1)
        return 0.5 * derived + 0.5 * self.total_logits.sigmoid()


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Scores and levels of S traces, on the host."""

    scores: Tensor
    """[S] in [0, 1]."""
    dimensions: Tensor
    """[S, 5] in [0, 4]: the expected levels."""
    levels: Tensor
    """[S, 5] int64: the most likely levels."""

    @classmethod
    def empty(cls, size: int) -> Verdicts:
        shape = (size, NUM_DIMENSIONS)
        return cls(torch.zeros(size), torch.zeros(shape), torch.zeros(shape, dtype=torch.long))

    def put(self, places: Sequence[int], judged: Judgments) -> None:
        self.scores[places] = judged.scores.cpu()
        self.dimensions[places] = judged.dimensions.cpu()
        self.levels[places] = judged.level_logits.argmax(-1).cpu()

    def at(self, places: Sequence[int]) -> Verdicts:
        return Verdicts(self.scores[places], self.dimensions[places], self.levels[places])


@dataclass(frozen=True, slots=True)
class RubricLoss:
    """The loss and its unweighted terms, each a micro-batch's contribution to the step's mean."""

    loss: Tensor
    dimension: Tensor
    total: Tensor
    ranking: Tensor
    pairs_right: Tensor
    """Contribution to the fraction of pairs whose positive scores higher."""

    def parts(self) -> Tensor:
        """Return all fields as [5], detached, in order."""
        fields = (self.loss, self.dimension, self.total, self.ranking, self.pairs_right)
        return torch.stack([field.detach() for field in fields])


def rubric_loss(
    judged: Judgments, levels: Tensor, totals: Tensor, config: RubricLossConfig, num_groups: int
) -> RubricLoss:
    """Compute the paper's loss of g groups, as their contribution to a step of G groups.

        L = w_dimension L_dim + w_total L_total + w_ranking L_rank            (1.0, 0.5, 0.7)
        L_dim   = sum_traces sum_k -log softmax(level_logits_k)[level_k] / (G (1 + N))
        L_total = sum_traces huber_1(sigmoid(total_logit) - total) / (G (1 + N))
        L_rank  = sum_pairs -log sigmoid(score_positive - score_negative) / (G N)

    Cross-entropy and Huber loss are means over the step's traces, the ranking loss is a mean over its pairs.
    Micro-batches of whole groups sum to the step's loss, however they are split.

    Args:
        judged: S = g (1 + N) traces, group after group, the positive first.
        levels: [S, 5] int64, 0 to 4.   totals: [S] in [0, 1].
        config: the weights, and N = num_negatives.
        num_groups: G >= g, of the whole step.
    """
    size = 1 + config.num_negatives
    num_traces, num_pairs = num_groups * size, num_groups * config.num_negatives
    dimension = F.cross_entropy(judged.level_logits.flatten(0, 1), levels.flatten(), reduction="sum")
    huber = F.huber_loss(judged.total_logits.sigmoid(), totals, delta=1.0, reduction="sum")
    scores = judged.scores.view(len(levels) // size, size)
    ahead = scores[:, :1] - scores[:, 1:]
    dimension, total = dimension / num_traces, huber / num_traces
    ranking = -F.logsigmoid(ahead).sum() / num_pairs
    loss = config.dimension * dimension + config.total * total + config.ranking * ranking
    return RubricLoss(loss, dimension, total, ranking, (ahead > 0).sum() / num_pairs)
