"""Detects that a text states the gold answer, as a whole number or word."""

from __future__ import annotations

import re

from fastrl.grading import exact_verdict
from fastrl.grading.where import stated_answers

# complete numbers: 12, -12, 1,200, 0.5, 3/4, \frac{3}{4}; exponents and indices don't match
_NUMBER = re.compile(
    r"-?\\[dt]?frac\{-?[0-9]+\}\{[0-9]+\}"
    r"|(?<![\w.^\\])(?<![\^_]\{)-?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?(?:/[0-9]+)?"
)
_PIECE = re.compile(r"\\?[A-Za-z]+|[0-9]+|\S")
_DOLLAR = re.compile(r"(?<!\\)\$")


def leaks(content: str, gold: str) -> bool:
    r"""Return True if a text states the gold answer at token boundaries, or states an equal one as an answer.

    A number is compared by value with the numbers in the text: 12 is in "x = 12." and "12%", not in "312",
    "12.5", "1/12", "-12", "12x" or "x^{12}"; \frac{1}{2} is in "1/2". Any other answer is searched as text,
    ignoring spaces and dollar signs. A single letter counts only where the grader looks for answers:
    elsewhere it is a variable. This is a heuristic: an answer in other words is not found.
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
    """Strip dollar signs, a final full stop and repeated spaces."""
    text = " ".join(_DOLLAR.sub(" ", gold).split())
    return text[:-1].rstrip() if text.endswith(".") and not text.endswith("..") else text


def _numbers(text: str) -> list[re.Match[str]]:
    return list(_NUMBER.finditer(text))


def _goes_on(text: str, number: re.Match[str]) -> bool:
    """Return True if a letter or underscore follows: 12x is not 12."""
    following = text[number.end() : number.end() + 1]
    return following.isalpha() or following == "_"


def _equal(stated: str, wanted: str) -> bool:
    return exact_verdict(stated, wanted) is True
