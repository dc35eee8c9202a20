"""The label reward: answers graded against labels that are wrong on purpose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastrl.config.base import refuse


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelConfig:
    """Which labels are wrong, and how, for reward.functions label (arXiv 2604.18574, appendix D)."""

    kind: Literal["fixed", "per_sample", "false_negatives"] = "fixed"
    """fixed: floor(share * problems) problems carry their wrong label throughout. per_sample: each rollout is
    graded against its problem's wrong label with probability share. false_negatives: right answers to
    floor(share * problems) problems are told wrong, and no wrong answer is told right."""
    share: float = 0.0
    """In [0, 1]. What is wrong at one share is wrong at every larger one, in the same way."""
    column: str = "wrong_label"
    """Where the file has each problem's wrong label, as the subset stage writes it; false_negatives needs
    none."""

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            refuse("labels", "share", "a number in [0, 1]", self.share)

    @property
    def needs_wrong_labels(self) -> bool:
        return self.kind != "false_negatives" and self.share > 0
