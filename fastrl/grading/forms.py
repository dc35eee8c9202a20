"""What an answer is, as a value: a quantity, an option, words, a list, a tuple, an interval, an equation."""

from __future__ import annotations

from dataclasses import dataclass

from fastrl.grading.numbers import Number
from fastrl.grading.units import Unit


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number, with what follows it."""

    number: Number
    unit: Unit | None = None
    """None: none is written, or a word that is in no table."""
    percent: bool = False


@dataclass(frozen=True, slots=True)
class Option:
    """One of several choices: A to J, and what stands next to the letter."""

    letter: str
    says: Form | None = None


@dataclass(frozen=True, slots=True)
class Words:
    """Text that is compared as text: lower case, single spaces, no punctuation at its ends."""

    text: str
    ordered: bool = False
    """Capital letters in a row: ABC is an order, and no product."""


@dataclass(frozen=True, slots=True)
class Empty:
    """No solution, or the empty set."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Values in no order: 1, 2 and {1, 2}."""

    items: tuple[Form, ...]
    braces: bool = False
    joined: str = ","
    """"," or "or" or "and", as the items of a bare list are joined."""


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
    """A value with its name: x = 5, f(x) = x^2, (p, q) = (3, 11)."""

    name: str
    value: Form


@dataclass(frozen=True, slots=True)
class Ratio:
    """Numbers parted by colons: 3:2, 11:30."""

    parts: tuple[Number, ...]
    clock: bool
    """It may be a time of day."""
    half: str = ""
    """am or pm, where it is said."""


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
    """Anything else, which takes algebra: its LaTeX."""

    latex: str
    unit: Unit | None = None


Form = (
    Quantity | Option | Words | Empty | Listing | Group | Grid | Named | Ratio | Based | Relation | Expression
)
