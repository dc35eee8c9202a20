"""Whether a text gives an answer away: as a number or a word of its own, not inside another one."""

from __future__ import annotations

import re

from fastrl.grading import exact_verdict
from fastrl.grading.where import stated_answers

# whole numbers, as they are written: 12, -12, 1,200, 0.5, 3/4, \frac{3}{4}; an exponent or an index is none
_NUMBER = re.compile(
    r"-?\\[dt]?frac\{-?[0-9]+\}\{[0-9]+\}"
    r"|(?<![\w.^\\])(?<![\^_]\{)-?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?(?:/[0-9]+)?"
)
_PIECE = re.compile(r"\\?[A-Za-z]+|[0-9]+|\S")
_DOLLAR = re.compile(r"(?<!\\)\$")


def leaks(content: str, gold: str) -> bool:
    r"""True where a text holds the gold answer at token boundaries, or states an equal one where the grader
    looks for answers. A heuristic: an answer in other words passes it.

    A number is compared with the numbers of the text, by value: 12 is in "x = 12." and "12%", not in "312",
    "12.5", "1/12", "-12", "12x" or "x^{12}"; \frac{1}{2} is in "1/2". Any other answer is looked for as it
    is written, but for spaces and dollar signs; one that is a single letter counts only where answers are
    stated: as a word it is a variable.
    """
    wanted = _as_written(gold)
    if any(_equal(stated, wanted) for stated in stated_answers(content)):
        return True
    if _NUMBER.fullmatch(wanted):
        return any(_equal(match[0], wanted) and not _goes_on(content, match) for match in _numbers(content))
    if not wanted or (len(wanted) == 1 and wanted.isalpha()):
        return False
    before = r"(?<![\w}\\])" if wanted[0].isalnum() or wanted[0] == "\\" else r"(?<!\w)"
    after = r"(?!\w)" if wanted[-1].isalnum() else ""
    spelt = r"\s*".join(re.escape(piece) for piece in _PIECE.findall(wanted))
    return re.search(before + spelt + after, _DOLLAR.sub(" ", content)) is not None


def _as_written(gold: str) -> str:
    """Without dollar signs, a final full stop and surplus spaces."""
    text = " ".join(_DOLLAR.sub(" ", gold).split())
    return text[:-1].rstrip() if text.endswith(".") and not text.endswith("..") else text


def _numbers(text: str) -> list[re.Match[str]]:
    return list(_NUMBER.finditer(text))


def _goes_on(text: str, number: re.Match[str]) -> bool:
    """A letter stands right behind it: 12x is no 12."""
    following = text[number.end() : number.end() + 1]
    return following.isalpha() or following == "_"


def _equal(stated: str, wanted: str) -> bool:
    return exact_verdict(stated, wanted) is True
