r"""Find boxes in a text: \boxed{7} in all its spellings, several that form one answer, unfinished ones."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fastrl.grading.braces import closing_braces

# \boxed, \\boxed, \fbox, \framebox, \bbox[..]; "\b" read as a backspace by a JSON parser
OPENING = re.compile(
    r"(?:(?<!\\)\\+(?:boxed|fbox|framebox|Boxed|bbox)(?![A-Za-z])|\x08oxed(?![A-Za-z])|(?<![A-Za-z\\])boxed(?=\s?\{))"
    r"(?:\s*\[[^\[\]\n]{0,40}\])?[ \t\n]*"
)
# without braces TeX boxes one token; here, a number or a single letter
BARE = re.compile(
    r"[+-]?(?:[0-9][0-9,]*(?:\.[0-9]+)?(?:/[0-9]+)?|\\[dt]?frac\s?[0-9]{2}|[A-Ja-z](?![A-Za-z]))(?=[\s$.,;)\]\\]|$)"
)
BETWEEN = re.compile(
    r"(?:[\s$,;&]|\\[\[\]()]|\\\\|\\q?quad(?![A-Za-z])|\\[,;:! ]"
    r"|\\text\{\s*(?:and|or),?\s*\}|and\b|or\b|\u3001|\uff0c|\u548c|\u6216)*"
    r"(?:(?P<name>[A-Za-z](?:_\{?[A-Za-z0-9]\}?)?)\s*=\s*\$?\s*)?"
)
NAME_BEFORE = re.compile(r"(?<![A-Za-z0-9\\^_])([A-Za-z](?:_\{?[A-Za-z0-9]\}?)?)\s*=\s*\$?\s*$")
MOST_JOINED = 32
MOST_BETWEEN = 60


@dataclass(frozen=True, slots=True)
class Box:
    """A finished box that is not empty."""

    start: int
    """Index of its command."""
    inside: int
    end: int
    """text[inside:end] is the content."""
    stop: int
    """Index after its closing brace."""


def find_boxes(text: str) -> tuple[list[Box], int | None]:
    """Return the outermost finished boxes in order, and the start of an unfinished one after them, or None.

    Linear in the text.
    """
    openings = list(OPENING.finditer(text))
    if not openings:
        return [], None
    closed = closing_braces(text)
    found: list[Box] = []
    unfinished, stop = None, 0
    for opening in openings:
        if opening.start() < stop:
            continue  # a box in a box
        place = opening.end()
        box = None
        if text[place : place + 1] == "{":
            end = closed.get(place)
            if end is None:
                unfinished = opening.start() if unfinished is None else unfinished
                continue
            box = Box(opening.start(), place + 1, end, end + 1)
        else:
            bare = BARE.match(text, place)
            if bare is not None:
                box = Box(opening.start(), place, bare.end(), bare.end())
        if box is not None:
            stop = box.stop
            if text[box.inside : box.end].strip():
                found.append(box)
                unfinished = None
    return found, unfinished


def boxed_answer(text: str, boxes: list[Box]) -> tuple[str, int]:
    r"""Return the answer in the last box, and its start.

    Boxes before it belong to the answer if only commas, "and" or "or" separate them:
    $x = \boxed{1}$ and $y = \boxed{2}$ is "x = 1, y = 2".
    """
    joined = [boxes[-1]]
    names = [_name_before(text, boxes[-1])]
    for box in reversed(boxes[:-1]):
        after = joined[0].start
        if len(joined) == MOST_JOINED or after - box.stop > MOST_BETWEEN:
            break
        between = BETWEEN.fullmatch(text, box.stop, after)
        if between is None:
            break
        joined.insert(0, box)
        names.insert(0, _name_before(text, box))
    contents = [_inner(text[box.inside : box.end].strip()) for box in joined]
    if len(joined) == 1 or len(set(contents)) == 1:
        return contents[-1], joined[-1].start
    if all(names):
        contents = [f"{name} = {content}" for name, content in zip(names, contents, strict=True)]
    return ", ".join(contents), joined[0].start


def _inner(content: str) -> str:
    """Return the content of the last box nested in a box's content; without one, the content itself."""
    for _ in range(8):
        if "box" not in content:
            break
        boxes, _ = find_boxes(content)
        if not boxes:
            break
        content = content[boxes[-1].inside : boxes[-1].end].strip()
    return content


def _name_before(text: str, box: Box) -> str:
    found = NAME_BEFORE.search(text, max(0, box.start - 16), box.start)
    return "" if found is None else found[1]


def box_contents(text: str) -> list[str]:
    """Return the contents of the finished, non-empty boxes in order."""
    boxes, _ = find_boxes(text)
    return [text[box.inside : box.end] for box in boxes]
