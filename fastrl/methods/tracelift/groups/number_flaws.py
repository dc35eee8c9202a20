"""Flaws that change a number, with all later numbers recalculated."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from random import Random

from fastrl.methods.tracelift.groups.edits import Edit, carry, number_edits
from fastrl.methods.tracelift.groups.flaw import Flaw, Work, carried, number_edit, only_equation_in_line
from fastrl.methods.tracelift.groups.rationale import SIGNS, Equation, Rationale

OTHER_SIGNS = {"+": "-*", "-": "+", "*": "+/", "/": "*-"}
_SIGN = re.compile(r"[-+*/–−×÷]|(?<![A-Za-z])[xX](?![A-Za-z])")  # noqa: RUF001


def arithmetic_slip(work: Work, random: Random) -> Iterator[Flaw]:
    """Make a result slightly wrong or swap two of its digits."""
    for equation in work.shuffled(random):
        for value in slips(work.rationale.result_of(equation), random):
            edit = number_edit(work.rationale, equation.result, value)
            if edit is not None:
                yield from carried(work, equation, value, edit)


def wrong_quantity_read(work: Work, random: Random) -> Iterator[Flaw]:
    """Misread a number of the question in the only line that uses it."""
    numbers = work.rationale.numbers
    results = {work.rationale.result_of(equation) for equation in work.rationale.equations}
    for equation in work.shuffled(random):
        for operand in equation.operands:
            value = numbers[operand].value
            same = [i for i, number in enumerate(numbers) if number.value == value]
            in_line = all(work.rationale.line_of(numbers[i].start) == equation.line for i in same)
            if value not in work.given or value in results or not in_line or max(same) > equation.result:
                continue
            others = sorted(work.given - {value}) + slips(value, random)
            random.shuffle(others)
            for other in others:
                yield from _read_as(work, equation, same, other)


def _read_as(work: Work, equation: Equation, same: list[int], other: Fraction) -> Iterator[Flaw]:
    """Replace the numbers at indexes `same`, all in the equation's line, by `other`."""
    edits = [number_edit(work.rationale, index, other) for index in same]
    possible = [edit for edit in edits if edit is not None]
    read = [other if i in same else work.rationale.numbers[i].value for i in equation.operands]
    result = equation.formula.value(read)
    if len(possible) == len(same) and result is not None:
        yield from carried(work, equation, result, possible[0], possible[1:])


def wrong_operation(work: Work, random: Random) -> Iterator[Flaw]:
    """Replace the only operation of a step."""
    rationale = work.rationale
    for equation in work.shuffled(random):
        sign = written_sign(rationale, equation)
        if sign is None:
            continue
        left, right = (rationale.numbers[i].value for i in equation.operands)
        others = OTHER_SIGNS[SIGNS[sign.new]]
        for other in random.sample(others, len(others)):
            if other == "/" and not right:
                continue
            result = {"+": left + right, "-": left - right, "*": left * right}.get(other)
            times = "x" if other == "*" and re.search(r"\d x \$?\d", rationale.text) else other
            cause = Edit(sign.start, sign.end, times)
            yield from carried(work, equation, left / right if result is None else result, cause)


def written_sign(rationale: Rationale, equation: Equation) -> Edit | None:
    """Find the sign of an equation with one operation in the text; None if it is not unique."""
    if len(equation.operands) != 2 or len(equation.formula.signs) != 1:
        return None
    left, right = (rationale.numbers[i] for i in equation.operands)
    found = list(_SIGN.finditer(rationale.text, left.end, right.start))
    if len(found) != 1 or SIGNS[found[0].group()] != equation.formula.signs[0]:
        return None
    return Edit(found[0].start(), found[0].end(), found[0].group())


def missing_condition(work: Work, random: Random) -> Iterator[Flaw]:
    """Delete a step and use its operand that is nearest to the result instead of the result."""
    rationale = work.rationale
    for equation in work.shuffled(random, last=False):
        if not only_equation_in_line(rationale, equation):
            continue
        old = rationale.result_of(equation)
        kept = min(equation.formula.numbers, key=lambda value: max(value, old) / max(min(value, old), TINY))
        changed = carry(rationale, work.known, equation.result, old, kept)
        if kept == old or not changed or rationale.equations[-1].result not in changed:
            continue
        start, end = rationale.line_span(equation.line)
        if any(start <= rationale.numbers[i].start < end for i in changed):
            continue
        cause = Edit(start, end, "")
        yield Flaw([cause, *number_edits(rationale, changed).values()], cause, keeps_answer=False)


TINY = Fraction(1, 10**6)


def slips(value: Fraction, random: Random) -> list[Fraction]:
    """Return near values: 1, 2, 10 or 100 units of the last digit away, or two adjacent digits swapped."""
    unit = Fraction(1)
    while (value / unit).denominator != 1 and unit > Fraction(1, 100):
        unit /= 10
    scaled = int(value / unit)
    steps = [step for step, least in ((1, 2), (2, 5), (10, 20), (100, 300)) if scaled >= least]
    near = [scaled + sign * step for step in steps for sign in (1, -1)]
    digits = str(scaled)
    near += [
        int(digits[:i] + digits[i + 1] + digits[i] + digits[i + 2 :])
        for i in range(len(digits) - 1)
        if digits[i] != digits[i + 1] and (i or digits[1] != "0")
    ]
    random.shuffle(near)
    return [factor * unit for factor in near]
