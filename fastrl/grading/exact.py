"""Compare two answers without algebra, in this process."""

from __future__ import annotations

from fastrl.grading.compare import Judge
from fastrl.grading.levels import LEVELS


def exact_verdict(answer: str, gold: str) -> bool | None:
    """Return whether two answers are equal at level strict; None: that takes algebra, so ask AnswerGrader."""
    return Judge(LEVELS["strict"]).compare(answer, gold)
