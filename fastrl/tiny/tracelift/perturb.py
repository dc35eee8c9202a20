"""Traces with exactly one flaw of known kind, place and effect on the rubric.

A trace here has the planner's form: one step per line and no boxed answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

from fastrl.tiny.tracelift.task import program
from fastrl.tiny.world.notation import write_explicit, write_private
from fastrl.tiny.world.task import Chain, Step, apply
from fastrl.tiny.world.traces import Corruption, corrupt, reference_solution

Kind = Literal[
    "misread_start", "operand", "operator", "left_out", "start", "skipped_step", "swapped_steps", "result",
    "result_unused", "no_conclusion", "wrong_conclusion", "private_tail", "vague_plan", "dumps_program",
]  # fmt: skip
MATH: tuple[Kind, ...] = (
    "misread_start", "operand", "operator", "left_out", "start", "skipped_step", "swapped_steps", "result",
    "result_unused", "no_conclusion", "wrong_conclusion", "private_tail",
)  # fmt: skip
CODE: tuple[Kind, ...] = (*MATH, "vague_plan", "dumps_program")
# kinds of traces.corrupt, by kinds of this module
CORRUPTIONS: dict[Kind, Corruption] = {
    "misread_start": "start", "start": "start", "operand": "operand", "operator": "operator",
    "result": "result", "result_unused": "result",
}  # fmt: skip
VAGUE = "and so on"


@dataclass(frozen=True, slots=True, kw_only=True)
class Perturbed:
    """A flawed trace."""

    text: str
    kind: Kind
    step: int
    """The first flawed step, from 0; the number of steps if something was appended."""
    place: tuple[int, int]
    """(start, end) of the flaw in `text`; end = start for an omission."""


def explicit_lines(chain: Chain) -> list[str]:
    return trace_of_solution(reference_solution(chain)).split("\n")


def trace_of_solution(text: str) -> str:
    """Remove the last line of a worked solution, the boxed answer."""
    return text.rpartition("\n")[0]


def places(chain: Chain, kind: Kind) -> list[int]:
    """Return the steps at which a flaw of this kind is possible and visible."""
    count = len(chain.terms)
    if kind == "misread_start":
        return [0]
    if kind == "start":
        return list(range(1, count))
    if kind in ("wrong_conclusion", "dumps_program"):
        return [count]
    if kind == "no_conclusion":
        return list(range(max(1, count - 2), count))
    if kind in ("left_out", "skipped_step", "swapped_steps"):
        return [k for k in range(count - 1) if chain.terms[k] != chain.terms[k + 1]]
    return list(range(count - (kind == "result_unused")))


def perturb(chain: Chain, kind: Kind, step: int, random: Random) -> Perturbed:
    """Return the right explicit trace with one flaw at a step; check_trace finds flaws in steps there.

        misread_start   begins with another number        operand       uses another number
        operator        does another operation            left_out      omits an operation
        start           continues from another value      skipped_step  a line is missing, its value is used
        swapped_steps   two lines exchanged               result        a wrong result, used from there on
        result_unused   a wrong result, continues from the right one
        no_conclusion   the last one or two steps are missing
        wrong_conclusion  one operation too many, with another result
        private_tail    private letters from here on      vague_plan    words instead of steps from here on
        dumps_program   the program at the end

    Raises:
        ValueError: this chain can't have this kind of flaw at this step.
    """
    if step not in places(chain, kind):
        raise ValueError(f"[perturb] step: expected one of {places(chain, kind)} for {kind}, got {step}")
    lines = _lines(chain, kind, step, random)
    left_out = kind in ("left_out", "skipped_step", "no_conclusion")
    first = min(len("".join(f"{line}\n" for line in lines[:step])), len("\n".join(lines)))
    changed = lines[step:] if kind in ("private_tail", "vague_plan") else lines[step : step + 1]
    if kind == "swapped_steps":
        changed = lines[step : step + 2]
    last = first if left_out else first + len("\n".join(changed))
    return Perturbed(text="\n".join(lines), kind=kind, step=step, place=(first, last))


def _lines(chain: Chain, kind: Kind, step: int, random: Random) -> list[str]:
    if kind in CORRUPTIONS:
        text = corrupt(chain, step, CORRUPTIONS[kind], random, propagate=kind != "result_unused")
        return trace_of_solution(text).split("\n")
    lines = explicit_lines(chain)
    if kind == "left_out":
        return lines[:step] + _work_on(chain, step)
    if kind == "skipped_step":
        return lines[:step] + lines[step + 1 :]
    if kind == "swapped_steps":
        return [*lines[:step], lines[step + 1], lines[step], *lines[step + 2 :]]
    if kind == "no_conclusion":
        return lines[:step]
    if kind == "private_tail":
        return [*lines[:step], write_private(chain.steps[step:], chain.modulus).rstrip("\n")]
    if kind == "vague_plan":
        return [*lines[:step], VAGUE]
    return [
        *lines,
        _surplus(chain, random) if kind == "wrong_conclusion" else program(chain.answer, chain.modulus),
    ]


def _work_on(chain: Chain, step: int) -> list[str]:
    """Return the right lines after an omitted operation."""
    value, lines = chain.steps[step].left, []
    for operation, operand in chain.terms[step + 1 :]:
        result = apply(value, operation, operand, chain.modulus)
        lines.append(write_explicit(Step(value, operation, operand, result)).rstrip("\n"))
        value = result
    return lines


def _surplus(chain: Chain, random: Random) -> str:
    """Return a surplus step that changes the value."""
    operation, operand = random.choice("+-"), random.randrange(1, chain.modulus)
    result = apply(chain.answer, operation, operand, chain.modulus)
    return write_explicit(Step(chain.answer, operation, operand, result)).rstrip("\n")
