"""What grading one completion can come to."""

from __future__ import annotations

from enum import Enum


class Verdict(str, Enum):
    """What became of one grading. Only CORRECT earns a reward; the others are told apart to be counted."""

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    """The completion states none."""
    UNREADABLE = "unreadable"
    """It states one that isn't the gold answer's text and that math-verify can't parse."""
    UNEVALUATED = "unevaluated"
    """It states a calculation that has the gold answer's value: see fastrl.grading.evaluated."""
    TIMEOUT = "timeout"
    ERROR = "error"
    """The grading process died."""


COUNTED_APART = tuple(verdict for verdict in Verdict if verdict not in (Verdict.CORRECT, Verdict.WRONG))
"""Verdicts that have a metric of their own, verify/NAME."""
