"""Votes: count equal answers together, such as 0.5 and 1/2, or count plain texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

Same = Callable[[Sequence[tuple[str, str]]], Sequence[bool]]
"""Function that returns, for each pair of answers, whether they are equal."""


def count_texts(answers: Iterable[str | None]) -> dict[str, int]:
    """Return the votes of each text, in order of first occurrence; None has no vote."""
    return dict(Counter(answer for answer in answers if answer is not None))


def count_answers(answers: Iterable[str | None], same: Same) -> dict[str, int]:
    """Return the votes of each answer, in order of first occurrence; None has no vote.

    Texts are taken in order of their votes, the most frequent first; ties by first occurrence. Each joins the
    first group whose first member it equals, or else starts a group. So grouping is transitive even though
    equality of answers isn't (35 % equals 35 and 0.35). A group is named after its most frequent text.
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
