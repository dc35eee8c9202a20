"""Options of the answer grader: how an answer is extracted and compared with the gold answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastrl.config.base import check_at_least, check_positive, refuse


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerConfig:
    """Grading of answers against gold answers."""

    extraction: Literal["boxed", "boxed_after_thought", "phrase", "last_number", "whole_response"] = "phrase"
    """Extraction of the answer from a completion. boxed: inside \\boxed{}. boxed_after_thought: the same, but
    only behind a thought that ends, such as <think>...</think>; without one there is no answer. phrase:
    boxed, or after "answer is", "Answer:" or "####". last_number: as phrase, else the last number.
    whole_response: math-verify searches the whole response. arXiv 2604.18574 has whole_response, and
    boxed_after_thought for models that think."""
    level: Literal["strict", "lenient"] = "strict"
    """strict: accept only answers that are clearly equal to the gold one. lenient: accept what most other
    graders accept; use it to compare with published numbers."""
    unevaluated: Literal["by_level", "unpaid", "paid"] = "by_level"
    """Calculations with the right value, such as \\binom{10}{3} for 120. paid: accept them. unpaid: don't.
    by_level: paid under lenient, unpaid under strict. whole_response always accepts them."""
    tolerance: float = 0.0
    """Relative tolerance between numbers, in [0, 1). Set it for benchmarks that define one."""
    timeout_s: float = 5.0
    """Seconds to grade one answer. A timeout scores 0 and is counted separately from wrong answers."""
    batch_s: float = 60.0
    """Seconds shared by all answers of a batch that take longer than 0.25 s. Answers that are not done by
    then count as timeouts."""
    workers: int = 2
    """Number of grading processes."""

    def __post_init__(self) -> None:
        check_positive("answer", self, "timeout_s", "batch_s", "workers")
        check_at_least("answer", self, 0, "tolerance")
        if self.tolerance >= 1:
            refuse("answer", "tolerance", "a number in [0, 1)", self.tolerance)
        if self.unevaluated == "unpaid" and self.extraction == "whole_response":
            refuse(
                "answer",
                "unevaluated",
                "by_level or paid, since only math-verify decides under whole_response",
                "unpaid",
            )
