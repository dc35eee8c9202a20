"""Reads traces given in the file of problems: {text, negative_kind, place, scores, total, label, reason}."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastrl.methods.tracelift.groups.drafts import LABELS, Draft, Judgment, UnusableError, label_of, total_of
from fastrl.methods.tracelift.rubric_dimensions import DIMENSIONS
from fastrl.types import Task

CANDIDATES, POSITIVE = "candidates", "positive"


def given_drafts(row: Mapping[str, Any], task: Task, name: str) -> list[Draft]:
    """Read all flawed traces of a row.

    Args:
        name: name of the row in errors.
    Raises:
        UnusableError: there are none.   ValueError: one is invalid; names the field.
    """
    candidates = row.get(CANDIDATES)
    if not candidates:
        raise UnusableError("no candidates")
    if not isinstance(candidates, list):
        raise ValueError(f"[groups] {name}, candidates: expected a list, got {candidates!r}")
    drafts = [
        read_draft(candidate, task, f"{name}, candidates[{index}]")
        for index, candidate in enumerate(candidates)
    ]
    for index, draft in enumerate(drafts):
        if draft.negative_kind is None:
            raise ValueError(f"[groups] {name}, candidates[{index}].negative_kind: expected a name, got None")
    return drafts


def read_draft(value: Any, task: Task, name: str) -> Draft:
    """Read one trace. Without scores it has no judgment; a missing total or label follows from the scores."""
    if not isinstance(value, Mapping) or not isinstance(value.get("text"), str):
        raise ValueError(f"[groups] {name}: expected a trace with text, got {value!r}")
    text, place = value["text"], value.get("place")
    if place is not None and not (len(place) == 2 and 0 <= place[0] <= place[1] <= len(text)):
        raise ValueError(f"[groups] {name}.place: expected (start, end) in the text, got {place!r}")
    return Draft(
        text=text,
        negative_kind=value.get("negative_kind"),
        place=None if place is None else (int(place[0]), int(place[1])),
        judgment=None if value.get("scores") is None else _judgment(value, task, name),
    )


def _judgment(value: Mapping[str, Any], task: Task, name: str) -> Judgment:
    scores = value["scores"]
    if not isinstance(scores, Mapping) or set(scores) != set(DIMENSIONS[task]):
        raise ValueError(f"[groups] {name}.scores: expected {', '.join(DIMENSIONS[task])}, got {scores!r}")
    for dimension, score in scores.items():
        if not isinstance(score, int | float) or not 0 <= score <= 10:
            raise ValueError(f"[groups] {name}.scores.{dimension}: expected 0 to 10, got {score!r}")
    scores = {dimension: float(scores[dimension]) for dimension in DIMENSIONS[task]}
    total = value.get("total")
    total = total_of(scores) if total is None else float(total)
    if not 0 <= total <= 1:
        raise ValueError(f"[groups] {name}.total: expected 0 to 1, got {total!r}")
    label = value.get("label") or label_of(total)
    if label not in LABELS:
        raise ValueError(f"[groups] {name}.label: expected one of {', '.join(LABELS)}, got {label!r}")
    return Judgment(scores=scores, total=total, label=label, reason=value.get("reason"))
