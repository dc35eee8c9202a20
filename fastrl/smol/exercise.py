"""Exercises: a question, the operations that answer it, and rows of data files made of them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Term = tuple[str, int]
"""An operation and its right operand."""
OPERATIONS: dict[str, Callable[[int, int], int]] = {"+": operator.add, "-": operator.sub, "*": operator.mul}
REQUEST = r"Work step by step and put the final answer in \boxed{}."


def work(start: int, terms: tuple[Term, ...]) -> list[int]:
    """Return all values from the start to the result; each operation applies to the value before it."""
    values = [start]
    for operation, operand in terms:
        values.append(OPERATIONS[operation](values[-1], operand))
    return values


@dataclass(frozen=True, slots=True, kw_only=True)
class Exercise:
    """A question with the operations that answer it, applied one after the other."""

    question: str
    start: int
    terms: tuple[Term, ...]
    formula: str | None = None
    """The answer, if it is a formula; None: the answer is the last result."""
    columns: dict[str, Any] = field(default_factory=dict)
    """Further columns, which a reward reads."""

    @property
    def prompt(self) -> str:
        return f"{self.question} {REQUEST}"

    @property
    def answer(self) -> str:
        return str(work(self.start, self.terms)[-1]) if self.formula is None else self.formula

    @property
    def trace(self) -> str:
        """The worked answer: one operation per line, then the answer in a box."""
        values = work(self.start, self.terms)
        lines = [
            f"{left} {operation} {operand} = {result}"
            for left, (operation, operand), result in zip(values, self.terms, values[1:], strict=False)
        ]
        return "\n".join([*lines, f"The answer is \\boxed{{{self.answer}}}."])


def problem_row(exercise: Exercise) -> dict[str, Any]:
    """Return a row for RL: question, gold answer, and the columns that rewards read."""
    return {"prompt": exercise.prompt, "solution": exercise.answer, **exercise.columns}


def worked_row(exercise: Exercise) -> dict[str, Any]:
    """Return a row for SFT: question and worked answer."""
    return {"prompt": exercise.prompt, "completion": exercise.trace}
