"""The hard set as interventions read it: problems, references, and failed attempts in steps."""

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
    """A problem of the hard set, and its attempts in steps."""

    index: int
    """Line of the file, from 0."""
    messages: list[Message]
    """What the model read when it made the attempts."""
    question: str
    solution: str
    """The gold answer."""
    reference: str
    attempts: list[Steps]

    def row(self) -> Row:
        """A line of attempts.jsonl."""
        attempts = [[steps[i] for i in range(len(steps))] for steps in self.attempts]
        told = {"problem": self.index, "question": self.question, "solution": self.solution}
        return told | {"attempts": attempts}


def read_hard_set(data: DataConfig) -> list[Row]:
    """The rows of a hard_set stage's hard.jsonl.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a row that is none of a hard set, or no row with an attempt.
    """
    rows = read_rows(data.path, data.limit)
    for number, row in enumerate(rows, 1):
        check_row(row, f"[data] {data.path} row {number}")
    if not any(row["attempts"] for row in rows):
        raise ValueError(
            f"[data] path: expected failed attempts that came to their end, got none in {data.path!r}; raise "
            "sampling.max_new_tokens or max_correct of the hard_set stage"
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
    if not isinstance(attempts, Sequence) or not all(_is_attempt(each) for each in attempts):
        raise ValueError(f"{place}: attempts: expected a list of objects with text, got {attempts!r}")


def hard_problem(index: int, row: Row, steps: StepsConfig) -> HardProblem:
    """A row with its attempts cut into steps."""
    cut = [
        segment(each["text"], min_chars=steps.min_chars, min_steps=steps.min_steps, max_steps=steps.max_steps)
        for each in row["attempts"]
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
