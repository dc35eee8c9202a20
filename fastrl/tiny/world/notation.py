"""Writes and parses worked steps in three styles: digits with one or two operations per line, or letters.

explicit   7+5=2        one operation per line
leap       7+5*3=6      two operations per line, without the value between them
private    HpFCtDG      a value, then operation, operand and value repeatedly, in letters, on one line
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fastrl.tiny.world.task import Step, Term

Style = Literal["explicit", "leap", "private"]
STYLES: tuple[Style, ...] = ("explicit", "leap", "private")

_DIGITS = str.maketrans("0123456789", "ABCDEFGHIJ")
_OPERATIONS = str.maketrans("+-*", "pmt")
_LETTERS = str.maketrans("ABCDEFGHIJpmt", "0123456789+-*")
_STEP = re.compile(r"(\d+)([-+*])(\d+)(?:([-+*])(\d+))?=(\d+)")
_ANSWER = re.compile(r"\\boxed\{(\d+)\}")


@dataclass(frozen=True, slots=True)
class Written:
    """One step as stated in a trace: from `left` by one or two operations to `result`."""

    style: Style
    left: int
    terms: tuple[Term, ...]
    result: int


def write_explicit(step: Step) -> str:
    return f"{step.left}{step.operation}{step.right}={step.result}\n"


def write_leap(first: Step, second: Step) -> str:
    """Write two steps as one line, without the first one's result."""
    return f"{first.left}{first.operation}{first.right}{second.operation}{second.right}={second.result}\n"


def write_private(steps: Sequence[Step], modulus: int) -> str:
    """Write all steps on one line of letters; every number has the same number of letters."""
    width = len(str(modulus - 1))

    def letters(number: int) -> str:
        return f"{number:0{width}d}".translate(_DIGITS)

    parts = [letters(steps[0].left)] if steps else []
    for step in steps:
        parts += [step.operation.translate(_OPERATIONS), letters(step.right), letters(step.result)]
    return "".join(parts) + "\n"


def write_answer(answer: int) -> str:
    return f"\\boxed{{{answer}}}"


def read_answer(line: str) -> int | None:
    """Return the number of a line that is exactly \\boxed{number}, else None."""
    match = _ANSWER.fullmatch(line)
    return None if match is None else int(match[1])


def read_line(line: str, modulus: int) -> list[Written] | None:
    """Parse the steps of a line; None if it has no style."""
    match = _STEP.fullmatch(line)
    if match is None:
        return _read_private(line, modulus)
    left, operation, right, second, operand, result = match.groups()
    if second is None:
        return [Written("explicit", int(left), ((operation, int(right)),), int(result))]
    return [Written("leap", int(left), ((operation, int(right)), (second, int(operand))), int(result))]


def _read_private(line: str, modulus: int) -> list[Written] | None:
    number = f"([A-J]{{{len(str(modulus - 1))}}})"
    head = re.match(number, line)
    if head is None or not re.fullmatch(f"(?:[pmt]{number}{number})+", line[head.end() :]):
        return None
    steps: list[Written] = []
    left = int(head[1].translate(_LETTERS))
    for operation, operand, value in re.findall(f"([pmt]){number}{number}", line[head.end() :]):
        result = int(value.translate(_LETTERS))
        term = (operation.translate(_LETTERS), int(operand.translate(_LETTERS)))
        steps.append(Written("private", left, (term,), result))
        left = result
    return steps
