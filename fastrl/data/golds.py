"""Gold answers: read from a cell the text after "####", a solution's last box, or a list's only item."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence

# a number with thousands commas, and signs or units around it; "2,9", "1,234, 5" and "(1,200)" don't match
THOUSANDS = re.compile(r"(?P<before>[-+$€£ ]*)(?P<number>\d{1,3}(,\d{3})+(\.\d+)?)(?P<after>[^\d,()\[\]{}]*)")
BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
NO_ANSWERS = ("proof", "notfound", "not found")
"""Texts that data sets write if a problem has no answer that can be compared."""


def gold_text(value: object) -> str:
    """Return a gold answer as text: the part after "####" without thousands commas, a list's only item, or 27
    for 27.0."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _only_item_of_json_list(value)
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 1:
        value = value[0]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return repr(value)
    if isinstance(value, str):
        _, mark, after = value.rpartition("####")
        text = (_without_thousands(after.strip()) if mark else value).strip()
        if text:
            return text
    raise ValueError(f"gold answer: expected text or a number, got {_shown(value)}")


def final_gold(value: object) -> str:
    """Return gold_text of a column of answers; refuse the texts of NO_ANSWERS, such as "proof"."""
    text = gold_text(value)
    if text.lower() in NO_ANSWERS:
        raise ValueError(f"gold answer: expected an answer that can be compared, got {text!r}")
    return text


def listed_gold(value: object) -> str:
    """Join the answers of a list: ["2", "3"] -> "2, 3"."""
    if isinstance(value, str):
        value = _json_list(value) or value
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 1:
        return ", ".join(final_gold(item) for item in value)
    return final_gold(value)


def worked_gold(value: object) -> str:
    """Return the gold answer of a worked solution: its last box, or else the text after "####".

    A text of one line with neither is the answer itself.

    Raises: ValueError: a longer text with neither.
    """
    if not isinstance(value, str):
        return final_gold(value)
    boxes = list(boxed(value))
    if boxes:
        return final_gold(boxes[-1])
    if "####" not in value and "\n" in value.strip():
        raise ValueError(
            f"gold answer: expected \\boxed{{...}} or #### in a worked solution, got {_shown(value)}"
        )
    return final_gold(value)


def boxed(text: str) -> Iterator[str]:
    """Yield the content of each closed \\boxed{...}, nested boxes left inside; linear in the text."""
    at = 0
    while (begin := BOX.search(text, at)) is not None:
        close = _closing(text, begin.end())
        if close is None:
            return
        yield text[begin.end() : close]
        at = close + 1


def _closing(text: str, start: int) -> int | None:
    """Return the index of the brace that closes the one before start, or None. Escaped braces don't count."""
    depth = 1
    for brace in re.finditer(r"\\.|[{}]", text[start:], re.DOTALL):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return start + brace.start()
    return None


def _without_thousands(text: str) -> str:
    found = THOUSANDS.fullmatch(text)
    return text if found is None else text.replace(",", "")


def _only_item_of_json_list(text: str) -> object:
    # an interval such as [-6,5] is JSON too, so only a list of one string is unpacked
    items = _json_list(text)
    return items[0] if items is not None and len(items) == 1 and isinstance(items[0], str) else text


def _json_list(text: str) -> list[object] | None:
    try:
        items = json.loads(text)
    except (ValueError, RecursionError):  # ValueError: integers of more than 4,300 digits too
        return None
    return items if isinstance(items, list) else None


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
