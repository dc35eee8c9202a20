"""Compare values by algebra: math-verify parses LaTeX, sympy evaluates. Only worker processes import this.

Numbers are compared at 60 digits, relative to their size, so that small quantities can differ too.
Expressions with variables are compared at several points; if that is inconclusive, sympy simplifies their
difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import lru_cache
from typing import Any, TypeVar

import sympy
from math_verify import LatexExtractionConfig, parse
from mpmath.libmp import NoConvergence
from sympy import Basic, Expr, Float, MatrixBase, Rational, Symbol
from sympy.polys.polyerrors import BasePolynomialError

from fastrl.grading.braces import split
from fastrl.grading.compare import Answer
from fastrl.grading.forms import Expression, Form, Group, Listing, Named, Quantity, Relation
from fastrl.grading.numbers import Number, stands_for
from fastrl.grading.read import read_clean

T = TypeVar("T")
DIGITS = 60
AGREE = sympy.Float("1e-45", DIGITS)
POINTS = ("1.37", "2.61", "0.43", "-0.71", "-1.93", "3.17", "-2.29", "0.87")
"""Values for variables; no two have a simple relation."""
FEWEST_POINTS = 3
FAILURES = (
    ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError,
    BasePolynomialError, NoConvergence,
)  # fmt: skip
"""Exceptions that sympy raises if it can't do something; RuntimeError includes NotImplementedError and
RecursionError."""
CONFIG = [LatexExtractionConfig(boxed_match_priority=0, try_extract_without_anchor=False)]


@lru_cache(maxsize=512)
def expression(latex: str) -> Any | None:
    """Parse LaTeX into a sympy object, with decimals as fractions; None: it can't be read."""
    found = parse(f"\\boxed{{{latex}}}", CONFIG, parsing_timeout=None)
    read = next((each for each in found if not isinstance(each, str)), None)
    if read is None:
        return None
    return _quiet(lambda: _rational(read.doit()), default=read)


def _rational(value: Any) -> Any:
    """Replace decimals by fractions, and the symbol i by the imaginary unit."""
    units = {symbol: sympy.I for symbol in value.free_symbols if symbol.name == "i"}
    exact = value.replace(lambda each: isinstance(each, Float), lambda each: Rational(str(each)))
    return exact.subs(units).doit() if units else exact


class SympyAlgebra:
    """Compares values, relations and sets; see fastrl.grading.compare.Algebra."""

    def same_value(self, one: Number | str, other: Number | str, digits: int, tolerance: Fraction) -> Answer:
        mine, theirs = (
            _exact(each) if isinstance(each, Number) else expression(each) for each in (one, other)
        )
        if mine is None or theirs is None:
            return None
        for decimal, value in ((one, theirs), (other, mine)):
            if isinstance(decimal, Number) and _stands_for(decimal, value, digits):
                return True
        return same(mine, theirs, float(tolerance))

    def same_relation(self, one: Relation, other: Relation) -> Answer:
        mine, theirs = _differences(one), _differences(other)
        if mine is None or theirs is None:
            return None
        if len(mine) == len(theirs) and (
            all(_same_condition(a, b) for a, b in zip(mine, theirs, strict=True))
            or all(_same_condition(a, b) for a, b in zip(mine, reversed(theirs), strict=True))
        ):
            return True
        variables = {symbol for _, difference in mine + theirs for symbol in difference.free_symbols}
        if len(variables) != 1 or any(sign in ("=", "\\ne") for sign, _ in mine + theirs):
            return False
        return self.same_set(one, other)

    def same_set(self, one: Form, other: Form) -> Answer:
        mine, theirs = as_set(one), as_set(other)
        if mine is None or theirs is None:
            return None
        if mine == theirs:
            return True
        pieces, others = _pieces(mine), _pieces(theirs)
        if pieces is not None and others is not None:
            return len(pieces) == len(others) and all(
                a[2:] == b[2:] and same(a[0], b[0]) and same(a[1], b[1])
                for a, b in zip(pieces, others, strict=True)
            )
        return _quiet(lambda: bool(mine.symmetric_difference(theirs).is_empty), default=False)


def same(one: Any, other: Any, tolerance: float = 0.0) -> bool:
    """Return whether two sympy objects are equal: numbers, expressions, matrices, tuples."""
    if one == other:
        return True
    if isinstance(one, MatrixBase) or isinstance(other, MatrixBase):
        return _same_matrix(one, other)
    if not (isinstance(one, Expr) and isinstance(other, Expr)):
        return _same_parts(one, other, tolerance)
    symbols = sorted(one.free_symbols | other.free_symbols, key=str)
    if not symbols:
        return same_number(one, other, tolerance)
    return _same_function(one, other, symbols)


def same_number(one: Expr, other: Expr, tolerance: float = 0.0) -> bool:
    if isinstance(one, Rational) and isinstance(other, Rational) and not tolerance:
        return bool(one == other)
    mine, theirs = _number(one), _number(other)
    if mine is None or theirs is None:
        return False
    return _close(mine, theirs, tolerance)


def _close(one: Any, other: Any, tolerance: float = 0.0) -> bool:
    size = max(abs(one), abs(other))
    off = abs(one - other)
    return bool(off <= max(AGREE, Float(tolerance)) * size)


def _number(value: Expr) -> Any | None:
    """Evaluate to DIGITS digits; None: it has no finite value."""
    found = _quiet(lambda: value.evalf(DIGITS), default=None)
    return found if found is not None and found.is_number and found.is_finite and _is_float(found) else None


def _is_float(value: Any) -> bool:
    real, imaginary = value.as_real_imag()
    return bool(real.is_Number and imaginary.is_Number)


def _same_function(one: Expr, other: Expr, symbols: list[Symbol]) -> bool:
    agreed = 0
    for mine, theirs in _at_points(one, other, symbols):
        real = mine.is_real and theirs.is_real
        if not _close(mine, theirs):
            if real or not (mine.is_real or theirs.is_real):
                return False
            continue  # outside one's domain
        agreed += 1
    if agreed >= FEWEST_POINTS:
        return True
    return _quiet(lambda: bool(sympy.simplify(one - other) == 0), default=False)


def _at_points(one: Expr, other: Expr, symbols: list[Symbol]) -> Iterator[tuple[Any, Any]]:
    """Yield both values at the points where both are finite numbers."""
    for start in range(len(POINTS)):
        values = [
            (symbol, Rational(POINTS[(start + 3 * place) % len(POINTS)]) + place)
            for place, symbol in enumerate(symbols)
        ]
        mine, theirs = _value_at(one, values), _value_at(other, values)
        if mine is not None and theirs is not None:
            yield mine, theirs


def _value_at(value: Expr, values: list[tuple[Symbol, Rational]]) -> Any | None:
    return _quiet(lambda: _number(value.subs(values)), default=None)


def _same_matrix(one: Any, other: Any) -> bool:
    if not (isinstance(one, MatrixBase) and isinstance(other, MatrixBase)) or one.shape != other.shape:
        return False
    return all(same(a, b) for a, b in zip(one, other, strict=True))


def _same_parts(one: Any, other: Any, tolerance: float) -> bool:
    """Return whether two tuples, functions or matrix sums have the same head and equal arguments in order."""
    if not (isinstance(one, Basic) and isinstance(other, Basic)) or one.func != other.func:
        return False
    if not one.args or len(one.args) != len(other.args):
        return False
    return all(same(a, b, tolerance) for a, b in zip(one.args, other.args, strict=True))


def _exact(number: Number) -> Rational:
    return Rational(number.value.numerator, number.value.denominator)


def _stands_for(decimal: Number, value: Any, digits: int) -> bool:
    """Return whether a decimal is a rounding of a value without variables."""
    if decimal.place is None or not isinstance(value, Expr) or value.free_symbols:
        return False
    found = _number(value)
    if found is None or not found.is_real:
        return False
    exact = Rational(str(found))
    return stands_for(decimal, Fraction(int(exact.p), int(exact.q)), digits)


# --- relations

FLIPPED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}


def _differences(relation: Relation) -> list[tuple[str, Expr]] | None:
    """Return each sign with left - right. None: a side can't be read or isn't a scalar expression."""
    sides = [expression(part) for part in relation.parts]
    readable = [side for side in sides if isinstance(side, Expr) and not isinstance(side, MatrixBase)]
    if len(readable) != len(sides):
        return None
    sides_of_signs = zip(relation.signs, readable[:-1], readable[1:], strict=True)
    return _quiet(lambda: [(sign, left - right) for sign, left, right in sides_of_signs], default=None)


def _same_condition(one: tuple[str, Expr], other: tuple[str, Expr]) -> bool:
    """Return whether f ~ 0 and g ~ 0 are the same condition: f / g is a constant, whose sign may flip <, >.

    A condition without a variable holds always or never, so it equals no other.
    """
    (sign, f), (other_sign, g) = one, other
    sign, other_sign = (each.replace("\\approx", "=").replace("\\equiv", "=") for each in (sign, other_sign))
    if not f.free_symbols or f.free_symbols != g.free_symbols:
        return False
    ratio = _constant_ratio(f, g)
    if ratio is None:
        return False
    if sign in ("=", "\\ne"):
        return sign == other_sign
    return sign == other_sign if ratio > 0 else FLIPPED.get(sign) == other_sign


def _constant_ratio(f: Expr, g: Expr) -> Any | None:
    """Return f / g if it is the same real number at all points, else None."""
    symbols = sorted(f.free_symbols, key=str)
    ratios = [mine / theirs for mine, theirs in _at_points(f, g, symbols) if abs(theirs) > AGREE]
    if len(ratios) < FEWEST_POINTS or not all(_close(ratios[0], ratio) for ratio in ratios):
        return None
    return ratios[0] if ratios[0].is_real and abs(ratios[0]) > AGREE else None


# --- sets

NUMBERS = {
    "R": sympy.S.Reals, "Z": sympy.S.Integers, "N": sympy.S.Naturals, "Q": sympy.S.Rationals,
    "C": sympy.S.Complexes,
}  # fmt: skip
RELATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "<": sympy.StrictLessThan, ">": sympy.StrictGreaterThan, "\\le": sympy.LessThan,
    "\\ge": sympy.GreaterThan, "=": sympy.Eq, "\\ne": sympy.Ne,
}  # fmt: skip


JOINTS = {"\\cup": sympy.Union, "\\cap": sympy.Intersection, "\\setminus": sympy.Complement}


def as_set(form: Form) -> Any | None:
    """Return the set of real numbers that a form describes; None: it describes none."""
    return _quiet(lambda: _as_set(form), default=None)


def _as_set(form: Form) -> Any | None:
    if isinstance(form, Named):
        return _as_set(form.value)
    if isinstance(form, Group):
        return _interval(form)
    if isinstance(form, Relation):
        return _solutions(form)
    if isinstance(form, Listing):
        if any(isinstance(item, Relation | Group) for item in form.items):
            sets = [_as_set(item) for item in form.items]
            if any(each is None for each in sets):
                return None
            return sympy.Intersection(*sets) if form.joined == "and" else sympy.Union(*sets)
        values = [_value(item) for item in form.items]
        return None if any(value is None for value in values) else sympy.FiniteSet(*values)
    if isinstance(form, Expression):
        return _written_set(form.latex)
    return None


def _written_set(latex: str) -> Any | None:
    for sign, join in JOINTS.items():
        pieces = split(latex, frozenset((sign,)))
        if len(pieces) > 1:
            sets = [_as_set(read_clean(piece, 1)) for piece in pieces]
            return None if any(each is None for each in sets) else join(*sets)
    text = latex.replace("\\mathbb", "").strip("{} ")
    if text in NUMBERS:
        return NUMBERS[text]
    read = expression(latex)
    return read if isinstance(read, sympy.Set) else None


def _interval(group: Group) -> Any | None:
    if len(group.items) != 2 or group.opening not in "([" or group.closing not in ")]":
        return None
    ends = [_value(item) for item in group.items]
    if any(end is None for end in ends):
        return None
    return sympy.Interval(ends[0], ends[1], group.opening == "(", group.closing == ")")


def _value(form: Form) -> Any | None:
    if isinstance(form, Quantity):
        return _exact(form.number)
    if isinstance(form, Named):
        return _value(form.value)
    return expression(form.latex) if isinstance(form, Expression) else None


def _solutions(relation: Relation) -> Any | None:
    sides: list[Any] = [expression(part) for part in relation.parts]
    if any(side is None for side in sides):
        return None
    symbols = {symbol for side in sides for symbol in side.free_symbols}
    if len(symbols) != 1:
        return None
    real = Symbol("x", real=True)
    sides = [side.subs(next(iter(symbols)), real) for side in sides]
    sets = [
        RELATIONS[sign](left, right).as_set()
        for sign, left, right in zip(relation.signs, sides[:-1], sides[1:], strict=True)
    ]
    return sympy.Intersection(*sets)


def _pieces(found: Any) -> list[tuple[Any, Any, bool, bool]] | None:
    """Return a set's intervals and points from left to right: (start, end, left open, right open)."""
    parts = found.args if isinstance(found, sympy.Union) else (found,)
    pieces: list[tuple[Any, Any, bool, bool]] = []
    for part in parts:
        if isinstance(part, sympy.Interval):
            pieces.append((part.start, part.end, bool(part.left_open), bool(part.right_open)))
        elif isinstance(part, sympy.FiniteSet):
            pieces += [(point, point, False, False) for point in part.args]
        else:
            return None
    return _quiet(lambda: sorted(pieces, key=_where), default=None)


def _where(piece: tuple[Any, Any, bool, bool]) -> float:
    return float(piece[0].evalf(30))


def _quiet(work: Callable[[], T], default: T) -> T:
    """Return work(), or the default if sympy raises one of FAILURES."""
    try:
        return work()
    except FAILURES:
        return default
