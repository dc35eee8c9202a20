"""Traces on their way into a group: drafted, then judged, by rule or by a model."""

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
    """Why a solution, or what a model wrote, can't be used: a few words, counted as they stand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgment:
    """What a trace is worth; fields as in Trace."""

    scores: Mapping[str, float]
    total: float
    label: str
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A trace that may still lack its judgment."""

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
    """10 in every dimension but those named; the total and the label follow."""
    scores = {name: hurt.get(name, BEST) for name in DIMENSIONS[task]}
    return Judgment(scores=scores, total=total_of(scores), label=label_of(total_of(scores)))


def total_of(scores: Mapping[str, float]) -> float:
    """(mean + lowest) / 20, in [0, 1]: reasoning counts half as good as it is on the whole, and half as good
    as its weakest side."""
    values = list(scores.values())
    return round((sum(values) / len(values) + min(values)) / (2 * BEST), 6)


def label_of(total: float) -> str:
    """strong from 0.85, acceptable from 0.7, weak from 0.4, else bad."""
    return next((label for label, least in _LEAST.items() if total >= least), "bad")
