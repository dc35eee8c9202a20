"""Votes: which answers are one, so that 0.5 and 1/2 vote together, and the plain count of texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

Same = Callable[[Sequence[tuple[str, str]]], Sequence[bool]]
"""Of pairs of answers: whether both are one."""


def count_texts(answers: Iterable[str | None]) -> dict[str, int]:
    """Return the votes of each text, in the order of first sight; None has no vote."""
    return dict(Counter(answer for answer in answers if answer is not None))


def count_answers(answers: Iterable[str | None], same: Same) -> dict[str, int]:
    """Return the votes of each answer, in the order of first sight; None has no vote.

    Texts are taken by their votes, the commonest first, of equal ones the first seen. Each joins the first
    group whose first member it equals, or else begins a group. So every text is in one group, and two are one
    exactly if their groups are: equality of votes is transitive, even where that of answers is not (35 % is
    35 and is 0.35). A group is spelt as its commonest text.
    """
    texts = count_texts(answers)
    seen = {text: place for place, text in enumerate(texts)}
    order = sorted(texts, key=lambda text: (-texts[text], seen[text]))
    pairs = [(other, first) for place, other in enumerate(order) for first in order[:place]]
    equal = dict(zip(pairs, same(pairs), strict=True))
    groups: dict[str, list[str]] = {}
    for text in order:
        first = next((each for each in groups if equal[text, each]), text)
        groups.setdefault(first, []).append(text)
    votes = {first: sum(texts[text] for text in members) for first, members in groups.items()}
    return dict(sorted(votes.items(), key=lambda vote: min(seen[text] for text in groups[vote[0]])))
