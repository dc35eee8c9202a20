"""Loads the hard set: problems, reference solutions, and failed attempts cut into steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastrl.config import DataConfig, StepsConfig
from fastrl.data.problems import as_messages
from fastrl.data.rows import Row, read_rows
from fastrl.methods.interventions.segment import Steps, segment
from fastrl.types import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class HardProblem:
    """A problem of the hard set with its failed attempts cut into steps."""

    index: int
    """Row of the file, from 0."""
    messages: list[Message]
    """The prompt that produced the attempts."""
    question: str
    solution: str
    """The gold answer."""
    reference: str
    """A correct solution."""
    attempts: list[Steps]

    def row(self) -> Row:
        """Return the problem's row of attempts.jsonl."""
        attempts = [[steps[i] for i in range(len(steps))] for steps in self.attempts]
        row = {"problem": self.index, "question": self.question, "solution": self.solution}
        return row | {"attempts": attempts}


def read_hard_set(data: DataConfig) -> list[Row]:
    """Read the hard.jsonl of a hard_set stage.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: a row lacks a column of the hard set, or no row has an attempt.
    """
    rows = read_rows(data.path, data.limit)
    for number, row in enumerate(rows, 1):
        check_row(row, f"[data] {data.path} row {number}")
    if not any(row["attempts"] for row in rows):
        raise ValueError(
            f"[data] path: expected failed attempts that were not truncated, got none in {data.path!r}; "
            "raise sampling.max_new_tokens or max_correct of the hard_set stage"
        )
    return rows


def check_row(row: Row, place: str) -> None:
    for name in ("question", "solution", "reference"):
        if not isinstance(row.get(name), str):
            raise ValueError(f"{place}: {name}: expected text, as hard_set writes it, got {row.get(name)!r}")
    try:
        as_messages(row.get("messages"))
    except ValueError as error:
        raise ValueError(f"{place}: messages: {error}") from error
    attempts = row.get("attempts")
    if not isinstance(attempts, Sequence) or not all(_is_attempt(attempt) for attempt in attempts):
        raise ValueError(f"{place}: attempts: expected a list of objects with text, got {attempts!r}")


def hard_problem(index: int, row: Row, steps: StepsConfig) -> HardProblem:
    """Build the problem of a row, its attempts cut into steps."""
    cut = [
        segment(
            attempt["text"],
            min_chars=steps.min_chars,
            min_steps=steps.min_steps,
            max_steps=steps.max_steps,
            split_formulas=steps.split_formulas,
        )
        for attempt in row["attempts"]
    ]
    return HardProblem(
        index=index,
        messages=as_messages(row["messages"]),
        question=row["question"],
        solution=row["solution"],
        reference=row["reference"],
        attempts=cut,
    )


def _is_attempt(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("text"), str) and bool(value["text"].strip())
