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
    TIMEOUT = "timeout"
    ERROR = "error"
    """The grading process died."""
