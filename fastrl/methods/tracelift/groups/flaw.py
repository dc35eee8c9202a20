"""A flaw of a worked solution: its edits, the causing edit, and whether the answer survives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from random import Random

from fastrl.methods.tracelift.groups.edits import Edit, carry, number_edits, plausible
from fastrl.methods.tracelift.groups.rationale import Equation, Rationale


@dataclass(frozen=True, slots=True)
class Work:
    """A rationale and the numbers of its problem."""

    rationale: Rationale
    given: frozenset[Fraction]
    """Numbers that the question writes in digits."""
    known: frozenset[Fraction]
    """`given`, and numbers that the question writes in words."""

    def shuffled(self, random: Random, *, last: bool = True) -> list[Equation]:
        """Return the equations in random order, without the last one unless `last`."""
        out = list(self.rationale.equations if last else self.rationale.equations[:-1])
        random.shuffle(out)
        return out


@dataclass(frozen=True, slots=True)
class Flaw:
    """Edits of a rationale."""

    edits: Sequence[Edit]
    cause: Edit
    """The edit that is the flaw; the others follow from it."""
    keeps_answer: bool


def number_edit(rationale: Rationale, index: int, value: Fraction) -> Edit | None:
    """Return the edit that replaces one number; None if the value is implausible."""
    if not plausible(rationale, index, value):
        return None
    return number_edits(rationale, {index: value})[index]


def carried(
    work: Work, equation: Equation, result: Fraction, cause: Edit, also: Sequence[Edit] = ()
) -> Iterator[Flaw]:
    """Yield the flaw that changes this equation's result, if later steps can be recalculated and the answer
    changes.

    Args:
        cause: the edit that is the flaw: of the result itself or of the text before it.
        also: edits that belong to the cause, such as the same number misread twice in the line.
    """
    rationale = work.rationale
    old = rationale.result_of(equation)
    if result == old or not plausible(rationale, equation.result, result):
        return
    changed = carry(rationale, work.known, equation.result, old, result)
    last = rationale.equations[-1]
    if changed is None or (last.result not in changed and last is not equation):
        return
    edits = number_edits(rationale, {**changed, equation.result: result})
    if cause.start == edits[equation.result].start:
        del edits[equation.result]
    yield Flaw([*edits.values(), cause, *also], cause, keeps_answer=False)


def only_equation_in_line(rationale: Rationale, equation: Equation) -> bool:
    return sum(other.line == equation.line for other in rationale.equations) == 1


def lines_that_use(rationale: Rationale, equation: Equation) -> list[int]:
    """Return the lines of later equations with an operand equal to this one's result."""
    later = [other for other in rationale.equations if other.result > equation.result]
    return [other.line for other in later if rationale.result_of(equation) in other.formula.numbers]
