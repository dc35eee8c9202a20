"""Flaws that change no number: missing or misplaced steps, wrong units, wrong conclusions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from random import Random

from fastrl.methods.tracelift.groups.edits import Edit
from fastrl.methods.tracelift.groups.flaw import Flaw, Work, lines_that_use, only_equation_in_line

UNITS = {
    "minutes": "hours", "hours": "minutes", "seconds": "minutes", "days": "weeks", "weeks": "days",
    "months": "years", "years": "months", "inches": "feet", "feet": "inches", "miles": "feet",
    "meters": "centimeters", "kilometers": "meters", "pounds": "ounces", "ounces": "pounds",
    "grams": "kilograms", "kilograms": "grams", "liters": "milliliters", "gallons": "quarts",
    "dollars": "cents", "cents": "dollars", "yards": "inches",
}  # fmt: skip
CONCLUSIONS = (
    "So the answer is {}.", "Therefore, the answer is {}.", "Thus the final answer is {}.",
    "This means the answer is {}.",
)  # fmt: skip


def skipped_step(work: Work, random: Random) -> Iterator[Flaw]:
    """Delete a step that a later one uses."""
    rationale = work.rationale
    for equation in work.shuffled(random, last=False):
        used = lines_that_use(rationale, equation)
        if used and min(used) > equation.line and only_equation_in_line(rationale, equation):
            cause = Edit(*rationale.line_span(equation.line), "")
            yield Flaw([cause], cause, keeps_answer=True)


def order_mixup(work: Work, random: Random) -> Iterator[Flaw]:
    """Swap a step with the next one, which uses it."""
    rationale = work.rationale
    for equation in work.shuffled(random, last=False):
        used = lines_that_use(rationale, equation)
        if equation.line + 1 not in used or equation.line in used:
            continue
        start, middle = rationale.line_span(equation.line)
        _, end = rationale.line_span(equation.line + 1)
        end -= rationale.text[end - 1] == "\n"
        swapped = f"{rationale.text[middle:end]}\n{rationale.text[start : middle - 1]}"
        cause = Edit(start, end, swapped)
        yield Flaw([cause], cause, keeps_answer=True)


def unit_mixup(work: Work, random: Random) -> Iterator[Flaw]:
    """Change the unit of a result but not its number."""
    rationale = work.rationale
    for equation in work.shuffled(random):
        end = rationale.numbers[equation.result].end
        unit = re.match(r" ([a-z]+)\b", rationale.text[end:])
        if unit is not None and unit.group(1) in UNITS:
            cause = Edit(end + 1, end + unit.end(), UNITS[unit.group(1)])
            yield Flaw([cause], cause, keeps_answer=equation is not rationale.equations[-1])


def wrong_conclusion(work: Work, random: Random) -> Iterator[Flaw]:
    """Conclude with another number of the steps: replace the stated answer, or append a sentence."""
    rationale = work.rationale
    last = rationale.equations[-1]
    earlier = [equation.result for equation in rationale.equations[:-1]] + list(last.operands)
    others = {rationale.numbers[index].value: rationale.numbers[index] for index in earlier}
    others.pop(rationale.result_of(last), None)
    stated = [n for n in rationale.numbers[last.result + 1 :] if n.value == rationale.result_of(last)]
    for other in random.sample(list(others.values()), len(others)):
        if stated:
            cause = Edit(stated[-1].start, stated[-1].end, rationale.text[other.start : other.end])
        else:
            start = other.start - rationale.text[: other.start].endswith("$")
            sentence = random.choice(CONCLUSIONS).format(rationale.text[start : other.end])
            cause = Edit(len(rationale.text), len(rationale.text), f"\n{sentence}")
        yield Flaw([cause], cause, keeps_answer=False)


def no_conclusion(work: Work, random: Random) -> Iterator[Flaw]:
    """End before the step that gives the answer."""
    rationale = work.rationale
    start, _ = rationale.line_span(rationale.equations[-1].line)
    if start:
        cause = Edit(start - 1, len(rationale.text), "")
        yield Flaw([cause], cause, keeps_answer=False)
