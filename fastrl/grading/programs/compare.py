"""Compare a program's result with its test's: words of output, or the return value of a call."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,4})?", re.ASCII)
INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
MAX_DIGITS = 4300
"""Longer words are compared as text."""


def same_words(words: Sequence[str], wanted: Sequence[str], tolerance: float) -> bool:
    """Return whether outputs agree word by word; see same_word."""
    return len(words) == len(wanted) and all(
        same_word(word, other, tolerance) for word, other in zip(words, wanted, strict=True)
    )


def same_word(word: str, wanted: str, tolerance: float) -> bool:
    """Return whether two words are equal, or two numbers, at least one of them written as a float, are close.

    |word - wanted| <= tolerance * max(1, |wanted|)     if wanted is written as a float
    |word - wanted| <= tolerance                        if wanted is written as an integer
    """
    if word == wanted:
        return True
    if not tolerance or max(len(word), len(wanted)) > MAX_DIGITS:
        return False
    if not (NUMBER.fullmatch(word) and NUMBER.fullmatch(wanted)):
        return False
    whole = INTEGER.fullmatch(wanted) is not None
    if whole and INTEGER.fullmatch(word):
        return False
    a, b = Decimal(word), Decimal(wanted)
    return abs(a - b) <= Decimal(tolerance) * (1 if whole else max(Decimal(1), abs(b)))


def same_value(value: Any, wanted: Any, tolerance: float) -> bool:
    """Return whether plain data equals a JSON value, in which tuples are lists and keys are text.

    Numbers, also within lists and dicts, are compared as in same_word.
    """
    if isinstance(wanted, list):
        return (
            isinstance(value, list | tuple)
            and len(value) == len(wanted)
            and all(same_value(a, b, tolerance) for a, b in zip(value, wanted, strict=True))
        )
    if isinstance(wanted, dict) and isinstance(value, dict):
        named = {str(key): item for key, item in value.items()}
        return named.keys() == wanted.keys() and all(
            same_value(item, wanted[key], tolerance) for key, item in named.items()
        )
    if value == wanted:
        return True
    if not tolerance or not isinstance(wanted, int | float) or not isinstance(value, int | float):
        return False
    whole = isinstance(wanted, int)
    if whole and isinstance(value, int):
        return False
    try:
        return bool(abs(value - wanted) <= tolerance * (1 if whole else max(1.0, abs(wanted))))
    except OverflowError:  # an integer beyond floats
        return False


def check_call(function: Callable[..., Any], given: str, wanted: str, tolerance: float) -> None:
    """Call a function and compare its return value.

    Args:
        given: its arguments, one JSON value per line.
        wanted: the accepted return values, one JSON value per line.
    Raises: AssertionError: it returns none of them.
    """
    value = function(*(json.loads(line) for line in given.split("\n") if line))
    if not any(same_value(value, json.loads(line), tolerance) for line in wanted.split("\n")):
        raise AssertionError(f"expected {wanted[:40]}, got {repr(value)[:40]}")
