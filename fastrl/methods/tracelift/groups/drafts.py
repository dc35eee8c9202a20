"""Draft traces and their judgments, made by rule or by a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fastrl.methods.tracelift.rubric_dimensions import DIMENSIONS
from fastrl.methods.tracelift.trace_groups import Trace
from fastrl.types import Task

BEST = 10.0
LABELS = ("strong", "acceptable", "weak", "bad")
_LEAST = {"strong": 0.85, "acceptable": 0.7, "weak": 0.4}


class UnusableError(ValueError):
    """A solution or a model's reply that can't be used; the message is the cause that is counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgment:
    """Scores and label of a trace; fields as in Trace."""

    scores: Mapping[str, float]
    total: float
    label: str
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A trace, perhaps without a judgment yet; fields as in Trace."""

    text: str
    negative_kind: str | None = None
    place: tuple[int, int] | None = None
    judgment: Judgment | None = None

    def judged(self, judgment: Judgment) -> Trace:
        return Trace(
            text=self.text,
            scores=judgment.scores,
            total=judgment.total,
            negative_kind=self.negative_kind,
            place=self.place,
            label=judgment.label,
            reason=judgment.reason,
        )


def by_rule(task: Task, hurt: Mapping[str, float]) -> Judgment:
    """Return a judgment with 10 in every dimension except those in `hurt`; total and label follow from it."""
    scores = {name: hurt.get(name, BEST) for name in DIMENSIONS[task]}
    return Judgment(scores=scores, total=total_of(scores), label=label_of(total_of(scores)))


def total_of(scores: Mapping[str, float]) -> float:
    """Return (mean + lowest) / 20, in [0, 1]: the mean score and the weakest dimension count half each."""
    values = list(scores.values())
    return round((sum(values) / len(values) + min(values)) / (2 * BEST), 6)


def label_of(total: float) -> str:
    """Return strong from 0.85, acceptable from 0.7, weak from 0.4, else bad."""
    return next((label for label, least in _LEAST.items() if total >= least), "bad")
