"""The interface of verifiers of executors' answers, and the verifier for math."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fastrl.data.problems import gold_text
from fastrl.grading import AnswerGrader, Verdict, exact_verdict, extract_answer, normalize_answer
from fastrl.grading.verdict import COUNTED_APART
from fastrl.rewards.traces import states_answer
from fastrl.types import Task

WORD = "[A-Za-z']{2,}"  # one letter may be a variable
IN_WORDS = re.compile(
    rf"(?:{WORD}[:,]? )*[$€£]?(-?(?:[0-9]{{1,3}}(?:,[0-9]{{3}})+|[0-9]+)(?:\.[0-9]+)?)(?: {WORD})*"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """The check of one answer."""

    success: bool
    score: float
    """Math: 1 or 0. Code: see execution_score."""
    pass_rate: float
    """Fraction of tests passed; for math, 1 or 0."""
    label: str
    """Name of the verdict or the outcome."""


class Verifier(Protocol):
    """Checks an executor's answers to a task."""

    task: Task
    labels: tuple[str, ...]
    """Labels with a metric of their own."""

    def reference(self, row: Mapping[str, Any]) -> Any:
        """Return the row's gold answer or tests; raise ValueError if it has none."""

    def check(self, answers: Sequence[tuple[str, Any]]) -> list[Checked]:
        """Check each (answer, reference)."""

    def leaks(self, trace: str, reference: Any) -> bool:
        """Return True if the trace states the answer or holds a program."""

    def tests_text(self, reference: Any) -> str | None:
        """Return the tests as text for the reward model; None if the task has none."""

    def close(self) -> None:
        """End the verifier's processes."""


class MathVerifier:
    """Grades answers against the gold answer; without a box or an answer phrase, the last number is graded.

    Words around the only number of an answer ("the total is 42 apples") don't matter.
    """

    task: Task = "math"
    labels = tuple(verdict.value for verdict in COUNTED_APART)

    def __init__(self, grader: AnswerGrader) -> None:
        self.grader = grader

    def reference(self, row: Mapping[str, Any]) -> str:
        return gold_text(row.get("solution"))

    def check(self, answers: Sequence[tuple[str, Any]]) -> list[Checked]:
        pairs = [(text, gold_text(gold)) for text, gold in answers]
        known = [in_words(*pair) for pair in pairs]
        rest = [pair for pair, right in zip(pairs, known, strict=True) if not right]
        verdicts = iter(self.grader.grade(rest))
        return [_graded(Verdict.CORRECT if right else next(verdicts)) for right in known]

    def leaks(self, trace: str, reference: Any) -> bool:
        return states_answer(trace, gold_text(reference))

    def tests_text(self, reference: Any) -> str | None:
        return None

    def close(self) -> None:
        self.grader.close()


def in_words(text: str, gold: str) -> bool:
    """Return True if the stated answer is the gold number with words around it."""
    stated = extract_answer(text, "last_number")
    found = IN_WORDS.fullmatch(normalize_answer(stated)) if stated is not None else None
    return found is not None and exact_verdict(found[1], normalize_answer(gold)) is True


def _graded(verdict: Verdict) -> Checked:
    right = verdict is Verdict.CORRECT
    return Checked(success=right, score=float(right), pass_rate=float(right), label=verdict.value)
