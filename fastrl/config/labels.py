"""Options of the label reward: answers graded against noisy labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastrl.config.base import refuse


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelConfig:
    """Label noise of the reward `label` (arXiv 2604.18574, appendix D)."""

    kind: Literal["fixed", "per_sample", "false_negatives"] = "fixed"
    """fixed: floor(share * problems) problems have a wrong label throughout. per_sample: each rollout is
    graded against its problem's wrong label with probability share. false_negatives: correct answers to
    floor(share * problems) problems are graded wrong; no wrong answer is graded correct."""
    share: float = 0.0
    """Fraction of noise, in [0, 1]. A larger share keeps the noise of a smaller one and adds to it."""
    column: str = "wrong_label"
    """Column with each problem's wrong label, as the subset stage writes it. Unused by false_negatives."""

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            refuse("labels", "share", "a number in [0, 1]", self.share)

    @property
    def needs_wrong_labels(self) -> bool:
        return self.kind != "false_negatives" and self.share > 0
