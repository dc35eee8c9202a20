r"""Decide whether an answer is worked out: \binom{10}{3} is a calculation left undone, 120 is an answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from fastrl.grading.braces import split
from fastrl.grading.forms import Expression, Form, Grid, Group, Listing, Named, Quantity, Relation
from fastrl.grading.latex import clean
from fastrl.grading.numbers import read_number
from fastrl.grading.read import read, read_clean
from fastrl.grading.units import DEGREE

SERIES = re.compile(r"\\(?:sum|prod|i{0,3}int|oint|lim)(?![A-Za-z])|\\frac\{d\}\{d[A-Za-z]\}")
LEFT_UNDONE = (
    SERIES,
    re.compile(r"(?<![A-Za-z])(?:log|ln|lg)(?![A-Za-z])"),
    re.compile(r"(?<![A-Za-z])(?:arc)?(?:sin|cos|tan|cot|sec|csc)h?(?![A-Za-z])"),
    re.compile(r"!|\\(?:[dt]?binom|choose|Gamma)(?![A-Za-z])"),
    re.compile(r"(?<![A-Za-z])(?:max|min|sup|inf|gcd|lcm|det)(?![A-Za-z])"),
    re.compile(r"(?<![A-Za-z])[bp]?mod(?![A-Za-z])"),
    re.compile(r"\\[lr](?:floor|ceil)(?![A-Za-z])"),
    re.compile(r"\|"),
)
"""Operations that count as left undone in a constant; sums, products, powers and roots don't."""
COMMAND = re.compile(r"\\[A-Za-z]+")
VARIABLE = re.compile(r"(?![ei](?![A-Za-z]))[A-Za-z]")
GREEK = re.compile(r"\\(?:alpha|beta|gamma|delta|theta|lambda|mu|phi|omega)(?![A-Za-z])")
VARIABLE_ALONE = re.compile(r"(?:[A-Za-z]|\\[a-z]{2,7})(?:_(?:\w|\{\w+\}))?")
PLAIN = re.compile(r"[+-]?\s*\\infty|\\mathbb\s*\{?\s*[A-Z]\s*\}?")
SET_SIGNS = frozenset(("\\cup", "\\cap", "\\setminus"))
WRAPPED = re.compile(r"[-+]?[({\[\s]*([0-9][0-9.,/]*)[)}\]\s]*")
IRRATIONAL = re.compile(
    r"\\sqrt(?:\[\s*([2-9])\s*\])?\{\s*([0-9]{1,15})\s*\}|\\pi(?:\s*\^\s*\{?[2-9]\}?)?"
    r"|(?<![A-Za-z\\])e(?:\^\{?[1-9]\}?)?"
)
AROUND_IRRATIONAL = re.compile(r"(?:[0-9.@{}()/\s+-]|\\frac)*")
ZERO = re.compile(r"(?<![0-9.])0+(?:\.0*)?(?![0-9.])")
SIGN_BETWEEN = re.compile(r"[0-9@})]\s*[+-]")
WITH_A_POWER = re.compile(
    r"[-+]?\s*(?:\\frac\{\s*[-+]?[0-9.]+\s*\}\{P\}|[0-9.]+\s*/\s*P|(?:[0-9.]+\s*\\(?:cdot|times))?P)"
    .replace("P", r"\s*[0-9.]+\s*\^\s*(?:\{\s*-?[0-9]+\s*\}|[0-9])\s*")
)  # fmt: skip


def is_evaluated(answer: str, gold: str) -> bool:
    r"""Return whether an answer, equal to the gold one, is worked out as far as the gold answer is.

    - If the gold answer consists of plain numbers, every number must be written out: as an integer, a
      decimal, a fraction (12/4 is a division, not a fraction), a mixed or a scientific number. For a decimal
      or an angle in degrees, a closed form with one root, \pi or e will also do; for 10^{-8}, 1/10^8.
    - If it is another constant, such as 2\sqrt{3} or 2^{10}, the answer may have sums, products, quotients,
      powers and roots, and whatever else the gold answer has: logarithms, factorials, sines.
    - If it has variables, the answer may have anything but a \sum, \prod, \int or \lim that the gold answer
      lacks.

    In a chain of equal values one such value is enough: 6 \cdot 7 = 42. Conditions must be solved if the gold
    answer is: x^2 < 4 doesn't answer -2 < x < 2, and x^2 = 9 doesn't answer the list 3, -3. Never raises.
    """
    right = clean(gold)
    if answer.strip() == gold.strip() or clean(answer) == right:
        return True
    wanted = list(_values(read(gold)))
    if not wanted:
        return True
    if all(_is_plain(value) for value in wanted):
        return _is_done(read(answer), lambda value: _is_written_out(value, wanted, right), solved=True)
    variables = any(_has_variable(value) for value in wanted)
    kinds = [SERIES] if variables else LEFT_UNDONE
    refused = [kind for kind in kinds if not kind.search(right)]
    return _is_done(read(answer), lambda value: _has_none(value, refused), solved=not variables)


def _is_done(form: Form, done: Callable[[Form], bool], solved: bool) -> bool:
    """Return whether `done` holds for a form's values.

    solved: a condition needs a lone variable as one of its sides.
    """
    if isinstance(form, Named):
        return _is_done(form.value, done, solved)
    if isinstance(form, Listing | Group):
        return all(_is_done(item, done, solved) for item in form.items)
    if isinstance(form, Relation):
        sides = [list(_values(read_clean(part, 1))) for part in form.parts]
        if not any(_has_variable(value) for side in sides for value in side):
            return any(all(map(done, side)) for side in sides)
        lone = [VARIABLE_ALONE.fullmatch(part) is not None for part in form.parts]
        return all(
            (alone and solved) or all(map(done, side)) for alone, side in zip(lone, sides, strict=True)
        ) and (not solved or any(lone))
    return all(map(done, _values(form)))


def _has_none(value: Form, refused: Sequence[re.Pattern[str]]) -> bool:
    return not isinstance(value, Expression) or not any(kind.search(value.latex) for kind in refused)


def _is_written_out(value: Form, wanted: Sequence[Form], gold: str) -> bool:
    if isinstance(value, Quantity):
        as_gold = any(each.number.is_division for each in wanted if isinstance(each, Quantity))
        return as_gold or not value.number.is_division
    if not isinstance(value, Expression):
        return True
    inside = WRAPPED.fullmatch(value.latex)
    number = None if inside is None else read_number(inside[1])
    if _is_plain(value) or (number is not None and not number.is_division):
        return True
    if any(_may_be_closed_form(each) for each in wanted) and _is_closed_form(value.latex):
        return True
    return "^" in gold and WITH_A_POWER.fullmatch(value.latex) is not None


def _may_be_closed_form(gold: Form) -> bool:
    return isinstance(gold, Quantity) and (gold.number.place is not None or gold.unit == DEGREE)


def _is_closed_form(latex: str) -> bool:
    """Return whether it has exactly one irrational number (a root, pi, e), and else plain rational ones."""
    found = list(IRRATIONAL.finditer(latex))
    if len(found) != 1 or (found[0][2] and _is_power(int(found[0][2]), int(found[0][1] or 2))):
        return False
    rest = IRRATIONAL.sub("@", latex)
    few_signs = len(SIGN_BETWEEN.findall(rest)) <= 1
    return AROUND_IRRATIONAL.fullmatch(rest) is not None and few_signs and ZERO.search(rest) is None


def _is_power(number: int, degree: int) -> bool:
    root = round(number ** (1 / degree))
    return bool(root**degree == number)


def _is_plain(value: Form) -> bool:
    return not isinstance(value, Expression) or PLAIN.fullmatch(value.latex) is not None


def _has_variable(value: Form) -> bool:
    if not isinstance(value, Expression) or _is_plain(value):
        return False
    return VARIABLE.search(COMMAND.sub(" ", value.latex)) is not None or GREEK.search(value.latex) is not None


def _values(form: Form) -> Iterator[Form]:
    """Yield the quantities and expressions of a form, without the lone variables of conditions."""
    if isinstance(form, Expression) and any(sign in form.latex for sign in SET_SIGNS):
        for piece in split(form.latex, SET_SIGNS):
            yield from _values(read_clean(piece, 1)) if piece != form.latex else (form,)
    elif isinstance(form, Quantity | Expression):
        yield form
    elif isinstance(form, Named):
        yield from _values(form.value)
    elif isinstance(form, Listing | Group):
        for item in form.items:
            yield from _values(item)
    elif isinstance(form, Grid):
        for row in form.rows:
            for cell in row:
                yield from _values(cell)
    elif isinstance(form, Relation):
        for part in form.parts:
            if VARIABLE_ALONE.fullmatch(part) is None:
                yield from _values(read_clean(part, 1))
