"""Numbers in answers: parse them as exact values, and compare rounded decimals with other values."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from fractions import Fraction

LONGEST = 1000
"""Most characters, and largest power of ten, of a number that is parsed here; longer ones go to algebra."""
DOUBLE_DIGITS = 15
DOUBLE_NOISE = Fraction(1, 10**12)

_PLAIN = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]{1,3}(?:\ [0-9]{3})+(?![0-9])|[0-9]+)"
_DECIMAL = rf"(?:{_PLAIN}(?:\.[0-9]*)?|\.[0-9]+)"
_REPEATING = (
    r"(?P<whole>[0-9]*)\.(?P<fixed>[0-9]*?)"
    r"(?:\\(?:overline|bar|dot)\s*\{?\s*(?P<bar>[0-9]+)\s*\}?(?:\\dot\s*\{?(?P<dot>[0-9])\}?)?"
    r"|\((?P<round>[0-9]+)\)|(?P<digit>[0-9])(?P=digit){2,}\s*(?:\.{2,}|\\ldots))"
)
_POWER = (
    r"10\s*\^\s*(?:\{\s*(?P<braced>[+-]?\s*[0-9]+)\s*\}|\(\s*(?P<rounded>[+-]?\s*[0-9]+)\s*\)"
    r"|(?P<bare>-?[0-9]+))"
)
_RATIO = rf"(?:\\frac\s*\{{\s*(?P<top>[+-]?\s*{_DECIMAL})\s*\}}\s*\{{\s*(?P<bottom>[+-]?\s*{_DECIMAL})\s*\}})"
NUMBER = re.compile(
    rf"\s*(?P<sign>[+-]?)\s*(?:{_REPEATING}"
    rf"|(?P<whole_part>[0-9]+)\s*\\frac\s*\{{\s*(?P<part>[0-9]+)\s*\}}\s*\{{\s*(?P<parts>[0-9]+)\s*\}}"
    rf"|(?P<mixed>[0-9]+)\s+(?:and\s+)?(?P<mixed_top>[0-9]+)\s*/\s*(?P<mixed_bottom>[0-9]+)"
    rf"|{_RATIO}"
    rf"|(?P<over>{_DECIMAL})\s*/\s*(?P<under>{_DECIMAL})"
    rf"|(?P<mantissa>{_DECIMAL})\s*(?:\\times|\\cdot|\*|x|X)\s*{_POWER}"
    rf"|{_POWER.replace('braced', 'braced1').replace('rounded', 'rounded1').replace('bare', 'bare1')}"
    rf"|(?P<floating>{_DECIMAL})[eE](?P<exponent>[+-]?[0-9]+)(?![0-9A-Za-z])"
    rf"|(?P<decimal>{_DECIMAL}))"
)
LIKE_THOUSANDS = re.compile(r"-?[0-9]{1,3}(?:,[0-9]{3})+")


@dataclass(frozen=True, slots=True)
class Number:
    """A number parsed from an answer."""

    value: Fraction
    place: Fraction | None = None
    """Value of one unit in its last decimal place; None: it is an integer or a fraction."""
    digits: int = 0
    """Significant digits of a decimal."""
    listed: str = ""
    """Text of a number whose commas could also separate a list: 100,200. Empty: no such commas."""
    is_division: bool = field(default=False, compare=False)
    """True for a quotient that is an integer or has decimals in it: 12/4, 1.5/2."""

    def times(self, factor: Fraction) -> Number:
        return replace(
            self, value=self.value * factor, place=None if self.place is None else self.place * abs(factor)
        )


def read_number(text: str) -> Number | None:
    """Parse a whole cleaned text as a number; None if it is anything else."""
    found = leading_number(text)
    return found[0] if found is not None and not found[1] else None


def leading_number(text: str) -> tuple[Number, str] | None:
    """Return the number at the beginning of a cleaned text, and the rest; None if there is none."""
    found = NUMBER.match(text)
    if found is None or found.end() - found.start() > LONGEST:
        return None
    number = _number(found)
    return None if number is None else (number, text[found.end() :].strip())


def stands_for(decimal: Number, value: Fraction, digits: int) -> bool:
    """Return whether a decimal is a rounding of a value: at most half a unit in its last place away.

    digits: minimum of significant digits. With 15 or more it may be off by a double's rounding error.
    """
    if decimal.place is None or decimal.digits < digits or not value:
        return False
    off = abs(decimal.value - value)
    return off * 2 <= decimal.place or (decimal.digits >= DOUBLE_DIGITS and off <= DOUBLE_NOISE * abs(value))


def equal_numbers(one: Number, other: Number, *, digits: int, tolerance: Fraction = Fraction(0)) -> bool:
    """Return whether two numbers are equal, one is a rounding of the other, or they differ by <= tolerance.

    A decimal with at least `digits` significant digits can be a rounding of a value without a finite decimal.
    If both have finite decimals, only a double's rounding error is allowed.

    tolerance: relative to the larger one; only for benchmarks that state one.
    """
    if one.value == other.value:
        return True
    if tolerance and abs(one.value - other.value) <= tolerance * max(abs(one.value), abs(other.value)):
        return True
    for decimal, exact in ((one, other), (other, one)):
        wanted = max(digits, DOUBLE_DIGITS) if exact.place is not None or _ends(exact.value) else digits
        if stands_for(decimal, exact.value, wanted):
            return True
    return False


def _ends(value: Fraction) -> bool:
    """Return whether a fraction has a finite decimal."""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1


def _number(found: re.Match[str]) -> Number | None:
    part = found.groupdict()
    sign = -1 if part["sign"] == "-" else 1
    number: Number | None
    if part["fixed"] is not None:
        number = _repeating(part)
    elif part["part"] is not None:
        number = _mixed(part["whole_part"], part["part"], part["parts"])
    elif part["mixed"] is not None:
        number = _mixed(part["mixed"], part["mixed_top"], part["mixed_bottom"])
    elif part["top"] is not None:
        number = _quotient(part["top"], part["bottom"])
    elif part["over"] is not None:
        number = _quotient(part["over"], part["under"])
    else:
        number = _scientific(part)
    if number is None:
        return None
    return replace(number, value=sign * number.value, listed=found[0].strip() if number.listed else "")


def _decimal(text: str) -> Number:
    plain = text.replace(",", "").replace(" ", "")
    if "." not in plain:
        return Number(Fraction(plain), listed=text if LIKE_THOUSANDS.fullmatch(text) else "")
    places = len(plain) - plain.index(".") - 1
    digits = len(plain.replace(".", "").lstrip("0+-"))
    value = Fraction(plain if plain != "." else "0")
    return Number(value, Fraction(1, 10**places) if places else None, digits if places else 0)


def _quotient(top: str, bottom: str) -> Number | None:
    under = _decimal(bottom.replace(" ", "").lstrip("+"))
    over = _decimal(top.replace(" ", "").lstrip("+"))
    if not under.value:
        return None
    value = over.value / under.value
    decimals = over.place is not None or under.place is not None
    return Number(value, is_division=decimals or (value.denominator == 1 and under.value != 1))


def _mixed(whole: str, top: str, bottom: str) -> Number | None:
    if not int(bottom) or int(top) >= int(bottom):  # 4 11/3 is no mixed number
        return None
    return Number(Fraction(int(whole)) + Fraction(int(top), int(bottom)))


def _repeating(part: dict[str, str | None]) -> Number:
    fixed, whole = part["fixed"] or "", part["whole"] or "0"
    again = (part["bar"] or "") + (part["dot"] or "") or part["round"] or part["digit"] or "0"
    value = Fraction(int(whole + fixed), 10 ** len(fixed))
    return Number(value + Fraction(int(again), (10 ** len(again) - 1) * 10 ** len(fixed)))


def _scientific(part: dict[str, str | None]) -> Number | None:
    written = part["mantissa"] or part["floating"] or part["decimal"]
    names = ("exponent", "braced", "rounded", "bare", "braced1", "rounded1", "bare1")
    power = next((part[name] for name in names if part[name] is not None), None)
    number = Number(Fraction(1)) if written is None else _decimal(written)
    if power is None:
        return number
    exponent = power.replace(" ", "")
    if len(exponent) > 5 or abs(int(exponent)) > LONGEST:
        return None
    scaled = number.times(Fraction(10) ** int(exponent))
    return replace(scaled, listed="")
