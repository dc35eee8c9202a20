"""Answers as text: where a completion states one, and which pairs can be compared without algebra."""

from __future__ import annotations

import re
from fractions import Fraction

_BOX = "\\boxed{"
_PHRASE = re.compile(r"\banswer\W{0,3}\s*(?:is\b|[:=])\W{0,2}?:?\s*|####\s*", re.IGNORECASE)
_MARKER = re.compile(r"\\boxed|</think>|final answer|\banswer\W{0,3}\s*(?:is\b|[:=])|####", re.IGNORECASE)
_SENTENCE_END = re.compile(r"\.(?:\s|$)|\n")
_NUMBER = re.compile(r"(?<![\w.])-?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?(?:/[0-9]+)?")

_INTEGER = r"-?(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+|[0-9]{1,15})"
_WHOLE = re.compile(_INTEGER)
_RATIO = re.compile(r"(-?[0-9]{1,15})/([0-9]{1,15})|(-?)\\[dt]?frac\{([0-9]{1,15})\}\{([0-9]{1,15})\}")
_DECIMAL = re.compile(r"-?[0-9]{1,9}\.[0-9]{1,6}")


def extract_answer(text: str, *, allow_last_number: bool = False) -> str | None:
    """The answer that a completion states, or None.

    The content of the last complete \\boxed{...}; without one, what follows the last "answer is", "answer:"
    or "####", to the end of the sentence; without that, where the caller allows it, the last number.
    """
    answer = last_boxed(text)
    if answer is None:
        answer = _after_last_phrase(text)
    if answer is None and allow_last_number:
        numbers = _NUMBER.findall(text)
        answer = numbers[-1] if numbers else None
    return answer.strip() or None if answer is not None else None


def boxes(text: str) -> list[tuple[int, int]]:
    """Where the complete \\boxed{...} stand: (start, end) of each content, braces balanced, in order."""
    found = []
    start = text.find(_BOX)
    while start >= 0:
        inside = start + len(_BOX)
        end = _closing_brace(text, inside)
        if end is not None:
            found.append((inside, end))
        start = text.find(_BOX, inside if end is None else end)
    return found


def last_boxed(text: str) -> str | None:
    found = boxes(text)
    return text[slice(*found[-1])] if found else None


def first_answer_marker(text: str) -> int | None:
    """Where the text begins to give its answer: \\boxed, </think>, "final answer", "answer is" or "####"."""
    match = _MARKER.search(text)
    return match.start() if match else None


def normalize_answer(answer: str) -> str:
    """Answer without dollar signs, final full stop and surplus spaces: what both graders compare."""
    text = re.sub(r"(?<!\\)\$", " ", answer)
    text = " ".join(text.split())
    return text[:-1].rstrip() if text.endswith(".") and not text.endswith("..") else text


def exact_verdict(prediction: str, gold: str) -> bool | None:
    """Whether two normalised answers are equal, where that takes no algebra; None: ask math-verify.

    Equal texts are equal. Integers, a/b and \\frac{a}{b} compare as exact fractions; a decimal of up to 6
    places differs from a number more than 1e-5 away. Wherever numbers decide, math-verify says the same
    (tests/grading/test_answer.py).
    """
    if prediction == gold:
        return True
    mine, theirs = _exact_value(prediction), _exact_value(gold)
    if mine is not None and theirs is not None:
        return mine == theirs
    mine, theirs = _value(prediction), _value(gold)
    # closer decimals are a matter of rounding
    return (
        False if mine is not None and theirs is not None and abs(mine - theirs) > Fraction(1, 10**5) else None
    )


def _exact_value(text: str) -> Fraction | None:
    if _WHOLE.fullmatch(text):
        return Fraction(text.replace(",", ""))
    ratio = _RATIO.fullmatch(text)
    if ratio is None:
        return None
    top, bottom, sign, frac_top, frac_bottom = ratio.groups()
    denominator = int(bottom or frac_bottom)
    if denominator == 0:
        return None
    return Fraction(int(top or sign + frac_top), denominator)


def _value(text: str) -> Fraction | None:
    return Fraction(text) if _DECIMAL.fullmatch(text) else _exact_value(text)


def _after_last_phrase(text: str) -> str | None:
    phrases = list(_PHRASE.finditer(text))
    if not phrases:
        return None
    rest = text[phrases[-1].end() :]
    math = re.match(r"\$+([^$]+)\$|\\\((.+?)\\\)", rest)
    if math:
        return math.group(1) or math.group(2)
    end = _SENTENCE_END.search(rest)
    return rest[: end.start() if end else None].strip(" *")


def _closing_brace(text: str, start: int) -> int | None:
    depth, place = 1, start
    while place < len(text):
        if text[place] == "\\":
            place += 2  # an escaped brace doesn't count
            continue
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return place
        place += 1
    return None
