"""Compare two answers by their forms; only single values that need it go to algebra.

Every rule is symmetric, and equal texts are equal, so verdicts are symmetric and reflexive.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Protocol

from fastrl.grading.forms import (
    Based,
    Empty,
    Expression,
    Form,
    Grid,
    Group,
    Listing,
    Named,
    Option,
    Quantity,
    Ratio,
    Relation,
    Words,
)
from fastrl.grading.latex import clean
from fastrl.grading.levels import Level
from fastrl.grading.numbers import Number, equal_numbers
from fastrl.grading.read import LONGEST, read, read_clean
from fastrl.grading.units import DEGREE

Answer = bool | None
"""Result of a comparison. None: it takes algebra, and there is none or it can't read one of the answers."""
MOST_PAIRS = 4096
"""Most pairs of single values for matching in any order; longer lists are compared in their order."""
HUNDREDTH = Fraction(1, 100)
INTEGER = re.compile(r"-?[0-9]{1,18}", re.ASCII)
"""Fast path: most gold answers are integers and need no parsing."""


class Algebra(Protocol):
    """Comparison of single values, relations and sets; see fastrl.grading.algebra."""

    def same_value(self, one: Number | str, other: Number | str, digits: int, tolerance: Fraction) -> Answer:
        """Return whether two numbers or expressions have the same value. None: one of them can't be read."""

    def same_relation(self, one: Relation, other: Relation) -> Answer: ...

    def same_set(self, one: Form, other: Form) -> Answer: ...


class Judge:
    """Comparison of answers at one level of grading.

    Args:
        level: see fastrl.grading.levels.
        tolerance: relative tolerance between numbers; 0 unless a benchmark states one.
        algebra: None: comparisons that take algebra return None.
    """

    def __init__(self, level: Level, tolerance: float = 0.0, algebra: Algebra | None = None) -> None:
        self.level = level
        self.tolerance = Fraction(tolerance)
        self.algebra = algebra
        self.rule = ""
        """The rule that decided the last comparison."""

    def compare(self, answer: str, gold: str) -> Answer:
        """Compare two answers, written as in a box."""
        if answer.strip() == gold.strip():
            return self._by("same text", True)
        if max(len(answer), len(gold)) > LONGEST:
            return self._by("too long to read", False)
        if INTEGER.fullmatch(answer) and INTEGER.fullmatch(gold) and not self.tolerance:
            return self._by("numbers, exactly", int(answer) == int(gold))
        one, other = clean(answer), clean(gold)
        if one == other:
            return self._by("same normal form", True)
        return self.equal(read(answer), read(gold))

    def equal(self, one: Form, other: Form) -> Answer:
        if one == other:
            return self._by("same form", True)
        for first, second, rule in RULES:
            for a, b in ((one, other), (other, one)):
                if isinstance(a, first) and isinstance(b, second):
                    return rule(self, a, b)
        return self._by(f"{kind(one)} is no {kind(other)}", False)

    def _by(self, rule: str, result: Answer) -> Answer:
        self.rule = rule
        return result

    # --- numbers

    def quantities(self, one: Quantity, other: Quantity) -> Answer:
        if one.unit is not None and other.unit is not None and one.unit != other.unit:
            if one.unit.dimensions != other.unit.dimensions:
                return self._by("units of different kinds", False)
            one, other = (
                replace(each, number=each.number.times(unit.factor))
                for each, unit in ((one, one.unit), (other, other.unit))
            )
        for a, b in ((one, other), (other, one)):
            if a.percent and not b.percent and self.numbers(a.number.times(HUNDREDTH), b.number):
                return self._by("a percentage is its hundredth part", True)
        if self.numbers(one.number, other.number):
            return self._by(
                "numbers, exactly" if not self.tolerance else "numbers, within the tolerance", True
            )
        if one.number.listed or other.number.listed:  # 100,200 may be two numbers
            return self._by("numbers, exactly", False)
        return self._by("numbers, exactly", False)

    def numbers(self, one: Number, other: Number) -> bool:
        return equal_numbers(one, other, digits=self.level.rounded_digits, tolerance=self.tolerance)

    def quantity_in_list(self, quantity: Quantity, listing: Listing) -> Answer:
        """Compare a number with a list: 100,200 is one number, but two against a list."""
        listed = quantity.number.listed
        if not listed:
            return self._by("one value is no list", False)
        parts = tuple(read_clean(part, 1) for part in listed.split(","))
        return self.equal(Listing(parts), listing)

    def ratios(self, one: Ratio, other: Ratio) -> Answer:
        if one.half and other.half and one.half != other.half:
            return self._by("times of day", False)
        if [part.value for part in one.parts] == [part.value for part in other.parts]:
            return self._by("ratios, part by part", True)
        scaled = self.level.scaled_ratios and not (one.clock and other.clock)
        return self._by("ratios, part by part", scaled and _proportional(one.parts, other.parts))

    def ratio_and_number(self, ratio: Ratio, quantity: Quantity) -> Answer:
        if not self.level.scaled_ratios or len(ratio.parts) != 2 or not ratio.parts[1].value:
            return self._by("a ratio is no number", False)
        same = ratio.parts[0].value / ratio.parts[1].value == quantity.number.value
        return self._by("a ratio as a quotient", same)

    def based(self, one: Based, other: Based) -> Answer:
        return self._by("digits and base", one == other)

    def based_and_number(self, based: Based, quantity: Quantity) -> Answer:
        """Compare digits in a base with a number without one, since the question may name the base."""
        value = quantity.number.value
        plain = quantity.unit is None and not quantity.percent and quantity.number.place is None
        return self._by("digits, the base left out", plain and based.digits == str(value))

    def quantity_and_expression(self, quantity: Quantity, expression: Expression) -> Answer:
        number, text = quantity.number, expression.latex
        if quantity.unit is not None and expression.unit is not None:
            if quantity.unit.dimensions != expression.unit.dimensions:
                return self._by("units of different kinds", False)
            number = number.times(quantity.unit.factor / expression.unit.factor)
        found = self.values(number, text)
        if found is not True and quantity.percent:
            found = _either(found, self.values(number.times(HUNDREDTH), text))
        if found is not True and quantity.unit == DEGREE and "\\pi" in text:
            found = _either(found, self.values(f"\\frac{{\\pi \\cdot {_plain(number)}}}{{180}}", text))
        return found

    def expressions(self, one: Expression, other: Expression) -> Answer:
        first = one.latex
        if one.unit is not None and other.unit is not None and one.unit != other.unit:
            if one.unit.dimensions != other.unit.dimensions:
                return self._by("units of different kinds", False)
            factor = one.unit.factor / other.unit.factor
            first = f"\\frac{{{factor.numerator}}}{{{factor.denominator}}} \\cdot ({first})"
        if is_set(one.latex) and is_set(other.latex):
            return self.sets(one, other)
        return self.values(first, other.latex)

    def values(self, one: Number | str, other: Number | str) -> Answer:
        if self.algebra is None:
            return self._by("algebra", None)
        return self._by(
            "values, by algebra",
            self.algebra.same_value(one, other, self.level.rounded_digits, self.tolerance),
        )

    # --- words

    def options(self, one: Option, other: Option) -> Answer:
        return self._by("letters of options", one.letter == other.letter)

    def option_and_other(self, option: Option, other: Form) -> Answer:
        if self.level.option_text and option.says is not None:
            return self.equal(option.says, other)
        if isinstance(other, Expression) and other.latex == option.letter.lower():
            return self._by("letters of options, in any case", self.level.option_text)
        if option.says is None and isinstance(other, Expression):  # C may be a constant
            return self.values(option.letter, other.latex)
        return self._by("an option is its letter", False)

    def words(self, one: Words, other: Words) -> Answer:
        if one.ordered != other.ordered:
            return self._by("words", one.text.lower() == other.text.lower())
        return self._by("words", one.text == other.text)

    def words_and_expression(self, words: Words, expression: Expression) -> Answer:
        same = "".join(words.text.split()).lower() == "".join(expression.latex.split()).lower()
        return self._by("words are no expression", same)

    def empty(self, one: Empty, other: Form) -> Answer:
        return self._by("an empty set equals only an empty set", isinstance(other, Empty))

    # --- several values

    def listings(self, one: Listing, other: Listing) -> Answer:
        names, others = (_by_name(each) for each in (one, other))
        if names and others:
            if set(names) != set(others):
                return self._by("values by their names", False)
            return self._all([(names[name], others[name]) for name in names], "values by their names")
        if names or others:  # the named side says the order
            return self._in_order(
                _values(one.items), _values(other.items), "values in the order of the names"
            )
        if any(isinstance(item, Relation) for item in (*one.items, *other.items)):
            return _either(self._matched(one.items, other.items), self.sets(one, other))
        return self._matched(one.items, other.items)

    def listing_and_group(self, listing: Listing, group: Group) -> Answer:
        if listing.braces:
            return self._by("a set is no tuple", False)
        return self._in_order(_values(listing.items), group.items, "a list and a tuple, in order")

    def groups(self, one: Group, other: Group) -> Answer:
        brackets = (one.opening, one.closing), (other.opening, other.closing)
        if one.is_vector and other.is_vector:
            if {one.opening, other.opening} == {"row", "column"}:
                return self._by("a row is no column", False)
        elif one.is_vector or other.is_vector:
            if "half-open" in map(_interval, (one, other)):
                return self._by("an interval is no vector", False)
        elif brackets[0] != brackets[1] and (
            len(one.items) == 2 or len(other.items) == 2 or "half-open" in map(_interval, (one, other))
        ):
            return self._by("brackets of an interval", False)
        return self._in_order(one.items, other.items, "tuples, in order")

    def grids(self, one: Grid, other: Grid) -> Answer:
        if [len(row) for row in one.rows] != [len(row) for row in other.rows]:
            return self._by("matrices of one shape", False)
        pairs = [
            pair
            for row, other_row in zip(one.rows, other.rows, strict=True)
            for pair in zip(row, other_row, strict=True)
        ]
        return self._all(pairs, "matrices, entry by entry")

    def named(self, one: Named, other: Named) -> Answer:
        if one.name != other.name:
            functions = all(isinstance(each.value, Expression | Relation) for each in (one, other))
            if not (self.level.any_name and functions):
                return self._by("names", False)
        return self.equal(one.value, other.value)

    def named_and_listing(self, named: Named, listing: Listing) -> Answer:
        if _by_name(listing):
            return self._by("names", False)
        return self.equal(named.value, listing)

    def named_and_other(self, named: Named, other: Form) -> Answer:
        return self.equal(named.value, other)

    # --- conditions

    def relations(self, one: Relation, other: Relation) -> Answer:
        if self.algebra is None:
            return self._by("algebra", None)
        return self._by("relations, by algebra", self.algebra.same_relation(one, other))

    def relation_and_named(self, relation: Relation, named: Named) -> Answer:
        if not isinstance(named.value, Expression | Quantity):
            return self._by("an equation is no list", False)
        value = named.value.latex if isinstance(named.value, Expression) else _plain(named.value.number)
        return self.relations(relation, Relation((named.name, value), ("=",)))

    def relation_and_expression(self, relation: Relation, expression: Expression) -> Answer:
        """Compare a relation with an expression; one that is written as a set is compared as a set."""
        if is_set(expression.latex):
            return self.sets(relation, expression)
        return self.relation_and_value(relation, expression)

    def relation_and_value(self, relation: Relation, value: Quantity | Expression) -> Answer:
        """Compare an equation with a value: all its sides must equal it, as in 2 + 3 = 5 and 5."""
        if set(relation.signs) != {"="}:
            return self._by("a condition is no value", False)
        return self._all(
            [(read_clean(part, 1), value) for part in relation.parts], "all sides of an equation"
        )

    def sets(self, one: Form, other: Form) -> Answer:
        if self.algebra is None:
            return self._by("algebra", None)
        return self._by("sets, by algebra", self.algebra.same_set(one, other))

    def sets_in_words(self, one: Form, other: Expression) -> Answer:
        return self.sets(one, other) if is_set(other.latex) else self._by("a list is no value", False)

    # --- parts

    def _in_order(self, ones: Sequence[Form], others: Sequence[Form], rule: str) -> Answer:
        if len(ones) != len(others):
            return self._by(rule, False)
        return self._all(list(zip(ones, others, strict=True)), rule)

    def _all(self, pairs: Sequence[tuple[Form, Form]], rule: str) -> Answer:
        result: Answer = True
        for one, other in pairs:
            same = self.equal(one, other)
            if same is False:
                return self._by(rule, False)
            result = None if same is None else result
        return self._by(rule, result)

    def _matched(self, ones: Sequence[Form], others: Sequence[Form]) -> Answer:
        rule = "values in any order"
        if len(ones) != len(others):
            return self._by(rule, False)
        if sum(map(size, ones)) * sum(map(size, others)) > MOST_PAIRS:
            return self._in_order(ones, others, "values in order, since there are many")
        table = [[self.equal(one, other) for other in others] for one in ones]
        if matching(table, lambda same: same is True):
            return self._by(rule, True)
        return self._by(rule, None if matching(table, lambda same: same is not False) else False)


SET_SIGNS = ("\\cup", "\\cap", "\\setminus", "\\mathbb", "\\infty)")


def is_set(latex: str) -> bool:
    """Return whether an expression is written as a set: unions, differences, the real numbers."""
    return any(sign in latex for sign in SET_SIGNS)


def matching(table: Sequence[Sequence[Answer]], allowed: Callable[[Answer], bool]) -> bool:
    """Return whether each row can be assigned its own allowed column (bipartite matching)."""
    owner: dict[int, int] = {}

    def place(row: int, seen: set[int]) -> bool:
        for column, same in enumerate(table[row]):
            if allowed(same) and column not in seen:
                seen.add(column)
                if column not in owner or place(owner[column], seen):
                    owner[column] = row
                    return True
        return False

    return all(place(row, set()) for row in range(len(table)))


def size(form: Form) -> int:
    """Return the number of single values in a form."""
    if isinstance(form, Listing | Group):
        return sum(map(size, form.items))
    if isinstance(form, Grid):
        return sum(size(cell) for row in form.rows for cell in row)
    return size(form.value) if isinstance(form, Named) else 1


def kind(form: Form) -> str:
    return type(form).__name__.lower()


def _interval(group: Group) -> str:
    return "half-open" if {group.opening, group.closing} in ({"(", "]"}, {"[", ")"}) else "other"


def _by_name(listing: Listing) -> dict[str, Form]:
    """Return the values by name, if each has a name of its own; else {}."""
    named = {item.name: item.value for item in listing.items if isinstance(item, Named)}
    return named if len(named) == len(listing.items) else {}


def _values(items: Sequence[Form]) -> list[Form]:
    return [item.value if isinstance(item, Named) else item for item in items]


def _either(one: Answer, other: Answer) -> Answer:
    if one is True or other is True:
        return True
    return None if one is None or other is None else False


def _plain(number: Number) -> str:
    value = number.value
    text = (
        str(abs(value.numerator))
        if value.denominator == 1
        else f"\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"
    )
    return f"-{text}" if value < 0 else text


def _proportional(ones: Sequence[Number], others: Sequence[Number]) -> bool:
    if len(ones) != len(others):
        return False
    return all(
        ones[i].value * others[0].value == others[i].value * ones[0].value for i in range(len(ones))
    ) and any(part.value for part in ones) == any(part.value for part in others)


RULES: tuple[tuple[type, type, Callable[..., Answer]], ...] = (
    (Empty, object, Judge.empty),
    (Quantity, Quantity, Judge.quantities),
    (Quantity, Expression, Judge.quantity_and_expression),
    (Quantity, Listing, Judge.quantity_in_list),
    (Expression, Expression, Judge.expressions),
    (Option, Option, Judge.options),
    (Words, Words, Judge.words),
    (Words, Expression, Judge.words_and_expression),
    (Ratio, Ratio, Judge.ratios),
    (Ratio, Quantity, Judge.ratio_and_number),
    (Based, Based, Judge.based),
    (Based, Quantity, Judge.based_and_number),
    (Listing, Listing, Judge.listings),
    (Listing, Group, Judge.listing_and_group),
    (Group, Group, Judge.groups),
    (Grid, Grid, Judge.grids),
    (Named, Named, Judge.named),
    (Named, Listing, Judge.named_and_listing),
    (Relation, Named, Judge.relation_and_named),
    (Option, object, Judge.option_and_other),
    (Named, object, Judge.named_and_other),
    (Relation, Relation, Judge.relations),
    (Relation, Group, Judge.sets),
    (Relation, Expression, Judge.relation_and_expression),
    (Relation, Quantity, Judge.relation_and_value),
    (Relation, Listing, Judge.sets),
    (Group, Expression, Judge.sets_in_words),
    (Listing, Expression, Judge.sets_in_words),
)
"""Rules by the forms they compare. The first row that fits in either order decides."""
