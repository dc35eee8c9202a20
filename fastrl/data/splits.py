"""Train and test splits: assign a text by its hash, so that no draw can put it into the other split."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from random import Random
from typing import Literal, TypeVar

Split = Literal["train", "test"]
TEST_SHARE = 8  # one text in 8 is held out
T = TypeVar("T")


def split_of(text: str) -> Split:
    """Return the split that a text belongs to."""
    held_out = int.from_bytes(blake2b(text.encode(), digest_size=4).digest(), "big") % TEST_SHARE == 0
    return "test" if held_out else "train"


def draw_different(
    draw: Callable[[Random], T],
    text_of: Callable[[T], str],
    count: int,
    *,
    seed: int,
    split: Split,
    section: str,
) -> list[T]:
    """Draw `count` items of one split with distinct texts; a longer draw begins with a shorter one's items.

    Args:
        section: config section that the error names.
    Raises:
        ValueError: fewer distinct ones were found in 100 * count + 1000 draws.
    """
    random = Random(f"{seed}/{split}")
    drawn: dict[str, T] = {}
    for _ in range(100 * count + 1000):
        if len(drawn) == count:
            break
        one = draw(random)
        text = text_of(one)
        if split_of(text) == split:
            drawn.setdefault(text, one)
    if len(drawn) < count:
        raise ValueError(f"[{section}] count: expected at most the {len(drawn)} that were found, got {count}")
    return list(drawn.values())
