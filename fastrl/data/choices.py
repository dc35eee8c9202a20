"""Multiple-choice questions: shuffle the options by a seed and letter them; the gold answer is a letter."""

from __future__ import annotations

from random import Random
from string import ascii_uppercase
from typing import Any

from fastrl.data.cells import parsed
from fastrl.data.rows import Row
from fastrl.runtime.seeding import seed_of

WRONG = ("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")


def gpqa_choices(row: Row, seed: int) -> dict[str, Any]:
    """Make the columns question (with its four options) and letter (the right one) from a row of GPQA."""
    options = [row.get(name) for name in ("Correct Answer", *WRONG)]
    question, letter = lettered(row.get("Question"), options, 0, seed)
    return {"question": question, "letter": letter}


def super_gpqa_choices(row: Row, seed: int) -> dict[str, Any]:
    """Make the columns asked (with its options) and letter (the right one) from a row of SuperGPQA."""
    options = row["options"]
    options = parsed(options) if isinstance(options, str) else options
    if not isinstance(options, list):
        raise ValueError(f"options: expected a list, got {options!r}")
    right = _place(options, row.get("answer"), row.get("answer_letter"))
    asked, letter = lettered(row.get("question"), options, right, seed)
    return {"asked": asked, "letter": letter}


def lettered(question: object, options: list[Any], right: int, seed: int) -> tuple[str, str]:
    """Return the question with its shuffled options, and the right option's letter.

    The order depends only on the seed and the question.

        Which is even?            A) 3
                                  B) 4          -> B

    Raises: ValueError: no question, fewer than two options or more than letters, or one is no text.
    """
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"question: expected text, got {question!r}")
    texts = [option.strip() if isinstance(option, str) else "" for option in options]
    if not 2 <= len(texts) <= len(ascii_uppercase) or not all(texts):
        raise ValueError(f"options: expected 2 to {len(ascii_uppercase)} texts, got {options!r}")
    order = list(range(len(texts)))
    Random(seed_of(seed, "options", question)).shuffle(order)
    lines = [f"{ascii_uppercase[i]}) {texts[option]}" for i, option in enumerate(order)]
    return "\n".join((question.strip(), *lines)), ascii_uppercase[order.index(right)]


def _place(options: list[Any], answer: object, letter: object) -> int:
    """Return the right option's index in the file. Raises: ValueError: answer and letter disagree."""
    places = [place for place, option in enumerate(options) if option == answer]
    if isinstance(letter, str) and letter.strip().upper() in ascii_uppercase[: len(options)]:
        named = ascii_uppercase.index(letter.strip().upper())
        if named in places or answer is None:
            return named
    elif len(places) == 1:
        return places[0]
    raise ValueError(f"answer: expected one of the options, got {answer!r} and letter {letter!r}")
