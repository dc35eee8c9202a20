"""Verdicts of grading one completion."""

from __future__ import annotations

from enum import Enum


class Verdict(str, Enum):
    """Result of grading one completion. Only CORRECT earns a reward; the others are counted separately."""

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    """The completion states no answer."""
    UNREADABLE = "unreadable"
    """The answer differs from the gold answer's text, and algebra can't read one of them."""
    UNEVALUATED = "unevaluated"
    """The answer is a calculation that has the gold answer's value: see fastrl.grading.evaluated."""
    TIMEOUT = "timeout"
    ERROR = "error"
    """The grading process died."""


COUNTED_APART = tuple(verdict for verdict in Verdict if verdict not in (Verdict.CORRECT, Verdict.WRONG))
"""Verdicts with a metric of their own, verify/NAME."""
