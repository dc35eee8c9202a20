"""Edits of a worked solution: changes one number and recalculates the numbers that depend on it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from fastrl.methods.tracelift.groups.rationale import Rationale

MOST_DECIMALS = 2
LARGEST_RATIO = 100


@dataclass(frozen=True, slots=True)
class Edit:
    """text[start:end] becomes `new`."""

    start: int
    end: int
    new: str


def apply_edits(text: str, edits: Sequence[Edit], cause: Edit) -> tuple[str, tuple[int, int]]:
    """Apply non-overlapping edits; return the new text and the span of `cause`, one of the edits, in it."""
    pieces: list[str] = []
    done = length = 0
    place = (0, 0)
    for edit in sorted(edits, key=lambda edit: (edit.start, edit.end)):
        if edit.start < done:
            raise ValueError(
                f"[edits] start: expected >= {done}, where the last edit ended, got {edit.start}"
            )
        pieces += [text[done : edit.start], edit.new]
        length += edit.start - done
        if edit is cause:
            place = (length, length + len(edit.new))
        length += len(edit.new)
        done = edit.end
    return "".join([*pieces, text[done:]]), place


def number_edits(rationale: Rationale, values: Mapping[int, Fraction]) -> dict[int, Edit]:
    """Return the edits that write values[i] in place of number i."""
    return {
        index: Edit(
            rationale.numbers[index].start,
            rationale.numbers[index].end,
            write_number(rationale, index, value),
        )
        for index, value in values.items()
    }


def is_money(rationale: Rationale, index: int) -> bool:
    number = rationale.numbers[index]
    return rationale.text[: number.start].endswith("$")


def decimals_of(value: Fraction) -> int | None:
    """Return the fewest decimals that write a value exactly; None if 6 are not enough."""
    for count in range(7):
        if (value * 10**count).denominator == 1:
            return count
    return None


def written_decimals(rationale: Rationale, index: int) -> int:
    number = rationale.numbers[index]
    return len(rationale.text[number.start : number.end].partition(".")[2])


def plausible(rationale: Rationale, index: int, value: Fraction) -> bool:
    """Return True if the value may replace the number without looking odd.

    It must be positive, within a factor of 100 of the old value, and whole if that was whole (money may have
    cents). It must have at most two decimals, or as many as the old text.
    """
    old = rationale.numbers[index].value
    decimals = decimals_of(value)
    if decimals is None or old == 0 or not 1 / LARGEST_RATIO <= value / old <= LARGEST_RATIO:
        return False
    if old.denominator == 1 and not is_money(rationale, index):
        return decimals == 0
    return decimals <= max(MOST_DECIMALS, written_decimals(rationale, index))


def write_number(rationale: Rationale, index: int, value: Fraction) -> str:
    """Format a value like the text's numbers: thousands commas if the text has any, cents with two digits."""
    number = rationale.numbers[index]
    old = rationale.text[number.start : number.end]
    decimals = decimals_of(value)
    assert decimals is not None, "callers check plausible() first"
    if is_money(rationale, index) and decimals:
        decimals = max(decimals, MOST_DECIMALS)
    if "." in old and number.value.denominator == 1:
        decimals = max(decimals, written_decimals(rationale, index))  # 5.00
    commas = any("," in rationale.text[other.start : other.end] for other in rationale.numbers)
    scaled = value * 10**decimals
    whole, rest = divmod(scaled.numerator, 10**decimals)
    return (f"{whole:,}" if commas else str(whole)) + (f".{rest:0{decimals}d}" if decimals else "")


def carry(
    rationale: Rationale,
    known: Collection[Fraction],
    start: int,
    old: Fraction,
    new: Fraction,
) -> dict[int, Fraction] | None:
    """Recalculate the numbers after index `start` when the value `old`, last written there, becomes `new`.

        operand -> moved[operand],  result -> formula(operands);  moved[old] = new, moved[result] = new result

    A later number depends on an earlier result if they are equal and no other source has that value: neither
    the question (`known`) nor another number of the solution. Returns the new value by index, or None if a
    source is ambiguous or a value implausible.
    """
    moved = {old: (start, new)}
    changed: dict[int, Fraction] = {}
    done = start
    ahead = [equation for equation in rationale.equations if equation.result > start]
    for equation in [*ahead, None]:
        end = len(rationale.numbers) if equation is None else equation.result
        here = [i for i in range(done + 1, end) if rationale.numbers[i].value in moved]
        operands = () if equation is None else equation.operands
        for index in here:
            value = rationale.numbers[index].value
            source, fresh = moved[value]
            if not _comes_from(rationale, known, source, value) or not _repeats(rationale, index, operands):
                return None
            changed[index] = fresh
        if equation is None:
            break
        done = equation.result
        result = equation.formula.value([changed.get(i, rationale.numbers[i].value) for i in operands])
        if result is None:
            return None
        if result != rationale.result_of(equation):
            changed[equation.result] = result
            moved[rationale.result_of(equation)] = (equation.result, result)
    return changed if all(plausible(rationale, i, value) for i, value in changed.items()) else None


def _comes_from(rationale: Rationale, known: Collection[Fraction], source: int, value: Fraction) -> bool:
    earlier = any(number.value == value for number in rationale.numbers[:source])
    results = [rationale.result_of(equation) for equation in rationale.equations if equation.result != source]
    return not earlier and value not in known and value not in results


def _repeats(rationale: Rationale, index: int, operands: Sequence[int]) -> bool:
    """Return True if the number is an operand, repeats one in its line, or is the only one there."""
    number = rationale.numbers[index]
    line = rationale.line_of(number.start)
    same_line = [other for other in rationale.numbers if rationale.line_of(other.start) == line]
    return len(same_line) == 1 or any(
        rationale.numbers[i].value == number.value and rationale.numbers[i] in same_line for i in operands
    )
