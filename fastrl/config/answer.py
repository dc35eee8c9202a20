"""The options of grading answers: where they may stand, what is paid, how long one may take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastrl.config.base import check_at_least, check_positive, refuse


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerConfig:
    """Options for comparing answers with the gold ones."""

    extraction: Literal["boxed", "phrase", "last_number", "whole_response"] = "phrase"
    """boxed: the answer stands in a box. phrase: in a box, or behind "answer is", "Answer:", "####".
    last_number: where these are missing, the last number. whole_response: math-verify looks through the whole
    response, as in the weak-supervision paper."""
    level: Literal["strict", "lenient"] = "strict"
    """strict: what nobody would dispute is paid. lenient: what most peers pay, for comparing with published
    numbers."""
    unevaluated: Literal["by_level", "unpaid", "paid"] = "by_level"
    """A calculation that has the gold answer's value but is left undone, such as \\binom{10}{3} for 120.
    by_level: strict doesn't pay it, lenient does. whole_response always pays it."""
    tolerance: float = 0.0
    """Relative, between numbers; for benchmarks that state one."""
    timeout_s: float = 5.0
    """Grading one answer is stopped after this long and counted apart from "wrong"."""
    batch_s: float = 60.0
    """Seconds for all answers of a batch that take longer than 0.25 s; they share them. What is not done
    then counts as stopped by the time limit."""
    workers: int = 2
    """Grading processes."""

    def __post_init__(self) -> None:
        check_positive("answer", self, "timeout_s", "batch_s", "workers")
        check_at_least("answer", self, 0, "tolerance")
        if self.tolerance >= 1:
            refuse("answer", "tolerance", "a number in [0, 1)", self.tolerance)
        if self.unevaluated == "unpaid" and self.extraction == "whole_response":
            refuse(
                "answer",
                "unevaluated",
                "by_level or paid, since math-verify alone decides under whole_response",
                "unpaid",
            )
