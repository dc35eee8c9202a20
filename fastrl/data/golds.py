"""The gold answer in a cell: after "####", in the last box of a worked solution, the only item of a list."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence

# a number with thousands commas and what may stand around it; "2,9", "1,234, 5" and "(1,200)" are none
THOUSANDS = re.compile(r"(?P<before>[-+$€£ ]*)(?P<number>\d{1,3}(,\d{3})+(\.\d+)?)(?P<after>[^\d,()\[\]{}]*)")
BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
NO_ANSWERS = ("proof", "notfound", "not found")
"""What data sets write where a problem has no answer that could be compared."""


def gold_text(value: object) -> str:
    """A gold answer as text: what follows "####" less the commas of thousands; the only item of a list; 27
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
    """gold_text of a column that holds answers; "proof" and its like are refused."""
    text = gold_text(value)
    if text.lower() in NO_ANSWERS:
        raise ValueError(f"gold answer: expected an answer that can be compared, got {text!r}")
    return text


def listed_gold(value: object) -> str:
    """The answers of a list, one after another: ["2", "3"] -> "2, 3"."""
    if isinstance(value, str):
        value = _json_list(value) or value
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 1:
        return ", ".join(final_gold(item) for item in value)
    return final_gold(value)


def worked_gold(value: object) -> str:
    """The gold answer of a worked solution: its last box, or what follows "####"; a text of one line without
    either is the answer itself.

    Raises: ValueError: it is longer, and has neither.
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
    """The contents of every \\boxed{...} that is closed, inner ones left inside; linear in the text."""
    at = 0
    while (begin := BOX.search(text, at)) is not None:
        close = _closing(text, begin.end())
        if close is None:
            return
        yield text[begin.end() : close]
        at = close + 1


def _closing(text: str, start: int) -> int | None:
    """Where the brace closes that opened before start; escaped braces are none."""
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
    # an interval such as [-6,5] is JSON too, so only a list of one string is taken apart
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
