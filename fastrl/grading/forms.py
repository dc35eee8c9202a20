"""Forms of answers: a quantity, an option, words, a list, a tuple, an interval, an equation and so on."""

from __future__ import annotations

from dataclasses import dataclass

from fastrl.grading.numbers import Number
from fastrl.grading.units import Unit


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number, with its unit or percent sign."""

    number: Number
    unit: Unit | None = None
    """None: no unit, or a word that the table of units lacks."""
    percent: bool = False


@dataclass(frozen=True, slots=True)
class Option:
    """An option of a multiple-choice question: its letter, A to J, and the text next to it."""

    letter: str
    says: Form | None = None


@dataclass(frozen=True, slots=True)
class Words:
    """Text that is compared as text: lower case, single spaces, no punctuation at its ends."""

    text: str
    ordered: bool = False
    """Capital letters in a row: ABC is an order, not a product."""


@dataclass(frozen=True, slots=True)
class Empty:
    """No solution, or the empty set."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Values in no order: 1, 2 and {1, 2}."""

    items: tuple[Form, ...]
    braces: bool = False
    joined: str = ","
    """Separator of the items of a bare list: ",", "or" or "and"."""


@dataclass(frozen=True, slots=True)
class Group:
    """Values in order, in brackets: a point, a vector, or an interval."""

    opening: str
    items: tuple[Form, ...]
    closing: str

    @property
    def is_vector(self) -> bool:
        return self.opening in ("\\langle", "column", "row")


@dataclass(frozen=True, slots=True)
class Grid:
    """A matrix of several rows and columns."""

    rows: tuple[tuple[Form, ...], ...]


@dataclass(frozen=True, slots=True)
class Named:
    """A value with a name: x = 5, f(x) = x^2, (p, q) = (3, 11)."""

    name: str
    value: Form


@dataclass(frozen=True, slots=True)
class Ratio:
    """Numbers separated by colons: 3:2, 11:30."""

    parts: tuple[Number, ...]
    clock: bool
    """True if it may be a time of day."""
    half: str = ""
    """am, pm or ""."""


@dataclass(frozen=True, slots=True)
class Based:
    """Digits of a number in a base: 312_8."""

    digits: str
    base: int


@dataclass(frozen=True, slots=True)
class Relation:
    """An equation, an inequality or a chain of them: parts[0] signs[0] parts[1] ..."""

    parts: tuple[str, ...]
    signs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Expression:
    """Any other answer, as LaTeX; comparing it takes algebra."""

    latex: str
    unit: Unit | None = None


Form = (
    Quantity | Option | Words | Empty | Listing | Group | Grid | Named | Ratio | Based | Relation | Expression
)
