"""Levels of grading: strict accepts what nobody would dispute, lenient what most other graders accept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LevelName = Literal["strict", "lenient"]
Extraction = Literal["boxed", "boxed_after_thought", "phrase", "last_number", "whole_response"]
Unevaluated = Literal["by_level", "unpaid", "paid"]


@dataclass(frozen=True, slots=True)
class Level:
    """Settings in which the levels differ; docs/grading.md has the reasons."""

    name: LevelName
    rounded_digits: int
    """Significant digits that a rounded decimal needs to equal another value."""
    unfinished: bool
    """If a thought has no end, or no answer after it, read one anywhere; ignore an unfinished box."""
    scaled_ratios: bool
    """6:4 equals 3:2 and 3/2."""
    option_text: bool
    """An option may be given by its text without its letter; a equals A."""
    any_name: bool
    """y = 2x equals f(x) = 2x: the name of a formula is not compared."""
    unevaluated: bool
    """Accept a calculation for its value: \\binom{10}{3} for 120."""


LEVELS: dict[str, Level] = {
    "strict": Level(
        "strict", 6, unfinished=False, scaled_ratios=False, option_text=False, any_name=False,
        unevaluated=False,
    ),
    "lenient": Level(
        "lenient", 4, unfinished=True, scaled_ratios=True, option_text=True, any_name=True, unevaluated=True
    ),
}  # fmt: skip
