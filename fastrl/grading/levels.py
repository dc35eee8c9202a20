"""The two levels of grading: strict pays what nobody would dispute, lenient what most peers pay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LevelName = Literal["strict", "lenient"]
Extraction = Literal["boxed", "phrase", "last_number", "whole_response"]
Unevaluated = Literal["by_level", "unpaid", "paid"]


@dataclass(frozen=True, slots=True)
class Level:
    """Where the levels differ; docs/grading.md has the reasons."""

    name: LevelName
    rounded_digits: int
    """Significant digits that a rounded decimal needs to stand for another value."""
    unfinished: bool
    """An unfinished thought, or an unfinished box behind a finished one, doesn't spoil what stands before."""
    scaled_ratios: bool
    """6:4 is 3:2, and 3/2."""
    option_text: bool
    """An option's text alone stands for its letter; a is A."""
    any_name: bool
    """y = 2x answers f(x) = 2x: the name of a formula is not compared."""
    unevaluated: bool
    """A calculation answers for its value: \\binom{10}{3} for 120."""


LEVELS: dict[str, Level] = {
    "strict": Level(
        "strict", 6, unfinished=False, scaled_ratios=False, option_text=False, any_name=False,
        unevaluated=False,
    ),
    "lenient": Level(
        "lenient", 4, unfinished=True, scaled_ratios=True, option_text=True, any_name=True, unevaluated=True
    ),
}  # fmt: skip
