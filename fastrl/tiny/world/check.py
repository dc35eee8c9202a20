"""The exact step checker: a trace's steps, style, faults and answer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from fastrl.tiny.world.notation import Written, read_answer, read_line
from fastrl.tiny.world.task import Chain, apply

TraceStyle = Literal["explicit", "leap", "private", "mixed", "none"]
Fault = Literal["start", "operator", "operand", "result", "surplus", "unreadable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceReport:
    """The check of a trace. A step is judged by the value that the trace stated before it."""

    style: TraceStyle
    """explicit, leap (perhaps with explicit lines), private; mixed: letters and digits, or lines without a
    style; none: no step."""
    steps_right: int
    steps_wrong: int
    """A line without a style is one wrong step. Steps that continue from a wrong value can be right."""
    first_wrong: int | None
    """Index of the first wrong step among the steps, from 0."""
    faults: tuple[tuple[int, Fault], ...]
    """(step, fault) of every wrong step."""
    answer: int | None
    """The number of the last line if that is \\boxed{number}."""
    correct: bool
    """The answer is correct."""
    complete: bool
    """All operations are done and the answer is the last value."""
    legible: bool
    """There are steps, and all of them are written in digits."""
    follows: bool
    """There are steps, and the answer is the last value that they state."""


def check_trace(chain: Chain, text: str) -> TraceReport:
    """Check every step of a trace exactly.

        step k is right  <=>  its left side is the value stated before it, its operations are the problem's
                              next ones, and its result is correct mod modulus

    Args:
        text: a completion: lines of steps, then \\boxed{number}.
    """
    lines = [line for line in text.split("\n") if line]
    answer = read_answer(lines[-1]) if lines else None
    if answer is not None:
        lines.pop()
    read = [read_line(line, chain.modulus) for line in lines]
    steps: list[Written | None] = []
    for line in read:
        steps += [None] if line is None else line
    faults, value, place = _faults(chain, steps)
    return TraceReport(
        style=_style(steps),
        steps_right=len(steps) - len(faults),
        steps_wrong=len(faults),
        first_wrong=faults[0][0] if faults else None,
        faults=tuple(faults),
        answer=answer,
        correct=answer == chain.answer,
        complete=answer is not None and place == len(chain.terms) and answer == value,
        legible=bool(steps) and all(step is not None and step.style != "private" for step in steps),
        follows=any(step is not None for step in steps) and answer == value,
    )


def _faults(chain: Chain, steps: Iterable[Written | None]) -> tuple[list[tuple[int, Fault]], int, int]:
    """Return the wrong steps, the last stated value, and the number of operations done."""
    faults: list[tuple[int, Fault]] = []
    value, place = chain.start, 0
    for index, step in enumerate(steps):
        if step is None:
            faults.append((index, "unreadable"))
            continue
        fault = _fault(chain, step, value, place)
        if fault is not None:
            faults.append((index, fault))
        value, place = step.result, place + len(step.terms)
    return faults, value, place


def _fault(chain: Chain, step: Written, value: int, place: int) -> Fault | None:
    expected = chain.terms[place : place + len(step.terms)]
    if len(expected) < len(step.terms):
        return "surplus"
    if step.left != value:
        return "start"
    if [operation for operation, _ in step.terms] != [operation for operation, _ in expected]:
        return "operator"
    if step.terms != expected:
        return "operand"
    result = step.left
    for operation, operand in step.terms:
        result = apply(result, operation, operand, chain.modulus)
    return None if step.result == result else "result"


def _style(steps: list[Written | None]) -> TraceStyle:
    seen = {None if step is None else step.style for step in steps}
    if not seen:
        return "none"
    if seen == {"private"}:
        return "private"
    if None in seen or "private" in seen:
        return "mixed"
    return "leap" if "leap" in seen else "explicit"
