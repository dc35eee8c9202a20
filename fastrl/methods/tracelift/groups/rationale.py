"""Parses worked solutions with calculator marks, such as `She has 3+4 = $<<3+4=7>>7 left.`"""

from __future__ import annotations

import ast
import operator
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from fastrl.methods.tracelift.groups.drafts import UnusableError

MARK = re.compile(r"<<([^<>]*)>>")
SPACES = re.compile(r"[\s$]*")
MOST_FORMULA_CHARS = 300
NUMBER = re.compile(r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?!\d)(?!(?:st|nd|rd|th)\b)|(?<![\d.])\.\d+")
SIGNS = {"+": "+", "-": "-", "–": "-", "−": "-", "*": "*", "x": "*", "X": "*", "×": "*", "/": "/", "÷": "/"}  # noqa: RUF001
_APPLY: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Number:
    """A number in the text."""

    start: int
    end: int
    value: Fraction


@dataclass(frozen=True, slots=True)
class Formula:
    """The left side of a mark, evaluable with other numbers."""

    tree: ast.expr
    numbers: tuple[Fraction, ...]
    """From left to right."""
    signs: tuple[str, ...]
    """The operators from left to right; empty if there are brackets or unary signs."""

    def value(self, numbers: Sequence[Fraction]) -> Fraction | None:
        """Evaluate the formula with these numbers in place of its own; None on division by zero."""
        try:
            return _evaluate(self.tree, iter(numbers))
        except ZeroDivisionError:
            return None


@dataclass(frozen=True, slots=True)
class Equation:
    """One mark, located in the text."""

    line: int
    formula: Formula
    operands: tuple[int, ...]
    """Indexes into Rationale.numbers of the formula's numbers as the text writes them."""
    result: int
    """Index of the number right after the mark."""


@dataclass(frozen=True, slots=True)
class Rationale:
    """A worked solution without its marks, and the parsed marks."""

    text: str
    numbers: tuple[Number, ...]
    equations: tuple[Equation, ...]
    """All of them hold."""
    line_starts: tuple[int, ...]

    def line_of(self, place: int) -> int:
        return bisect_right(self.line_starts, place) - 1

    def line_span(self, line: int) -> tuple[int, int]:
        """Return (start, end) of a line, including its line break."""
        following = (*self.line_starts[1:], len(self.text))
        return self.line_starts[line], following[line]

    def result_of(self, equation: Equation) -> Fraction:
        return self.numbers[equation.result].value


def strip_marks(solution: str) -> str:
    """Remove the `<<...>>` marks and the `#### answer` line."""
    return MARK.sub("", solution.partition("####")[0]).rstrip()


def read_number(text: str) -> Fraction:
    """Raises: UnusableError: it is longer than any number of a worked solution."""
    if len(text) > MOST_FORMULA_CHARS:
        raise UnusableError("a number that is too long")
    return Fraction(text.replace(",", ""))


def parse_rationale(solution: str) -> Rationale:
    """Parse a solution in which every equation has a correct mark.

    Raises:
        UnusableError: no mark; a mark that is no equation, is false or disagrees with the text around it; an
            equals sign without a mark.
    """
    text = strip_marks(solution)
    numbers = tuple(Number(m.start(), m.end(), read_number(m.group())) for m in NUMBER.finditer(text))
    line_starts = (0, *(place + 1 for place, letter in enumerate(text) if letter == "\n"))
    rationale = Rationale(text, numbers, (), line_starts)
    equations: list[Equation] = []
    removed = 0
    for mark in MARK.finditer(solution.partition("####")[0]):
        place = mark.start() - removed
        removed += len(mark.group())
        previous = equations[-1] if equations else None
        equations.append(_equation(rationale, mark.group(1), place, previous))
    if not equations:
        raise UnusableError("no calculator mark")
    marked = {numbers[equation.result].start for equation in equations}
    for sign in re.finditer("=", text):
        between = SPACES.match(text, sign.end())
        if between is None or between.end() not in marked:
            raise UnusableError("an equation without a mark")
    return Rationale(text, numbers, tuple(equations), line_starts)


def parse_formula(text: str) -> Formula:
    """Parse sums, differences, products and quotients of numbers.

    Raises:
        UnusableError: the text is anything else, or a single number.
    """
    if len(text) > MOST_FORMULA_CHARS or not re.fullmatch(r"[\d.+\-*/() ]+", text):
        raise UnusableError("a mark that is no equation")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UnusableError("a mark that is no equation") from error
    if not isinstance(tree, ast.BinOp):
        raise UnusableError("a mark without an operation")
    nodes = [node for node in ast.walk(tree) if not isinstance(node, ast.operator | ast.unaryop)]
    if not all(isinstance(node, ast.BinOp | ast.UnaryOp | ast.Constant) for node in nodes) or "//" in text:
        raise UnusableError("a mark that is no equation")
    if any(isinstance(node, ast.BinOp) and type(node.op) not in _APPLY for node in nodes):
        raise UnusableError("a mark that is no equation")
    constants = sorted((node for node in nodes if isinstance(node, ast.Constant)), key=_column)
    plain = "(" not in text and not any(isinstance(node, ast.UnaryOp) for node in nodes)
    signs = tuple(re.findall(r"[-+*/]", text)) if plain else ()
    return Formula(tree, tuple(Fraction(str(node.value)) for node in constants), signs)


def _column(node: ast.expr) -> int:
    return node.col_offset


def _evaluate(node: ast.expr, numbers: Iterator[Fraction]) -> Fraction:
    if isinstance(node, ast.BinOp):
        left = _evaluate(node.left, numbers)
        return _APPLY[type(node.op)](left, _evaluate(node.right, numbers))
    if isinstance(node, ast.UnaryOp):
        value = _evaluate(node.operand, numbers)
        return -value if isinstance(node.op, ast.USub) else value
    return next(numbers)


def _equation(rationale: Rationale, mark: str, place: int, previous: Equation | None) -> Equation:
    """Build the equation of a mark, located at `place` of the text without marks."""
    left, equals, right = mark.partition("=")
    if not equals or not NUMBER.fullmatch(right.strip()):
        raise UnusableError("a mark that is no equation")
    formula = parse_formula(left)
    numbers = rationale.numbers
    result = bisect_left(numbers, place, key=lambda number: number.start)
    exact = formula.value(formula.numbers)
    if exact is None or exact != read_number(right.strip()):
        raise UnusableError("a false equation")
    if result == len(numbers) or numbers[result].start != place or numbers[result].value != exact:
        raise UnusableError("a mark whose result the text does not repeat")
    line = rationale.line_of(place)
    first = 0 if previous is None else previous.result + 1
    before = [i for i in range(first, result) if rationale.line_of(numbers[i].start) == line]
    operands = tuple(before[-len(formula.numbers) :])
    if tuple(numbers[i].value for i in operands) != formula.numbers:
        raise UnusableError("a mark whose formula the text does not spell out")  # "20% of 50" for .2*50
    return Equation(line, formula, operands, result)
