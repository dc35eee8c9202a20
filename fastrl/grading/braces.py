"""Brackets in answers: match braces, and split a text at its outermost level."""

from __future__ import annotations

import re
from collections.abc import Iterator

TOKEN = re.compile(r"\\(?:[A-Za-z]+|.)|.", re.DOTALL)
OPENING = {"{": "}", "(": ")", "[": "]", "\\{": "\\}", "\\langle": "\\rangle"}
CLOSING = {close: open_ for open_, close in OPENING.items()}
# intervals mix the kinds, as in [0, 1), so any closing bracket closes the one that is open
ROUND = {"(", "[", "\\{", "\\langle"}


def closing_braces(text: str, most: int | None = None) -> dict[int, int]:
    r"""Return the index of the "}" for each "{" that is closed. Escaped braces don't count. Linear."""
    opened: list[int] = []
    closed: dict[int, int] = {}
    place, end = 0, len(text) if most is None else min(most, len(text))
    find = re.compile(r"[\\{}]").search
    while True:
        found = find(text, place, end)
        if found is None:
            return closed
        place = found.end()
        if found[0] == "\\":
            place += 1
        elif found[0] == "{":
            opened.append(found.start())
        elif opened:
            closed[opened.pop()] = found.start()


def tokens(text: str) -> Iterator[tuple[int, str, int]]:
    r"""Yield (index, token, depth); a token is a command such as \frac, an escaped or a single character.

    depth: the number of brackets open around the token.
    """
    depth = 0
    for found in TOKEN.finditer(text):
        token = found[0]
        if token in CLOSING:
            depth = max(0, depth - 1)
        yield found.start(), token, depth
        if token in OPENING:
            depth += 1


def split(text: str, separators: frozenset[str]) -> list[str]:
    """Split a text at separators outside all brackets and environments, and strip the pieces."""
    pieces, last = [], 0
    environments = 0
    for place, token, depth in tokens(text):
        if token == "\\begin":
            environments += 1
        elif token == "\\end":
            environments -= 1
        elif depth == 0 and environments <= 0 and token in separators:
            pieces.append(text[last:place].strip())
            last = place + len(token)
    pieces.append(text[last:].strip())
    return pieces


def enclosed(text: str) -> tuple[str, str, str] | None:
    """Return (opening, inside, closing) if one pair of brackets encloses the whole text, else None.

    Kinds of brackets may mix, as in intervals: [0, 1) is one pair.
    """
    first = TOKEN.match(text)
    if first is None or first[0] not in ROUND:
        return None
    depth = 0
    for found in TOKEN.finditer(text):
        if found[0] in ROUND or found[0] == "{":
            depth += 1
        elif found[0] in CLOSING:
            depth -= 1
            if depth == 0:
                if found.end() != len(text) or found[0] == "}":
                    return None
                return first[0], text[first.end() : found.start()].strip(), found[0]
    return None
