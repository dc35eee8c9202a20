"""Deliberately wrong labels: the seed and the item decide which items are corrupted and how.

An item that is corrupted at one share is corrupted at every larger share, with the same wrong label.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor

from fastrl.grading import exact_verdict, normalize_answer
from fastrl.runtime.seeding import seed_of

Differ = Callable[[Sequence[tuple[str, str]]], Sequence[bool]]
"""Returns True for each (answer, gold answer) pair that the grader certainly calls wrong."""
MOST_DRAWS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class NoisyLabel:
    """The label that an item's answers are graded against."""

    gold: str
    label: str
    """The wrong label if the item is corrupted, else the gold answer."""
    corrupted: bool


def exactly_differ(pairs: Sequence[tuple[str, str]]) -> list[bool]:
    """A Differ without math-verify: False for pairs that take algebra to compare."""
    return [exact_verdict(a, gold) is False for a, gold in pairs]


def most_frequent_wrong(wrong_votes: Mapping[str, int], seed: int, item: int) -> str | None:
    """Return the most frequent wrong answer (the paper's label noise); (seed, item, answer) breaks ties.
    None if no sample was wrong."""
    most = max(wrong_votes.values(), default=0)
    tied = [answer for answer, votes in wrong_votes.items() if votes == most]
    return min(tied, key=lambda answer: seed_of(seed, "tie", item, answer), default=None)


def random_labels(
    gold: Sequence[str], pool: Sequence[str], seed: int, items: Sequence[int], differ: Differ = exactly_differ
) -> list[str]:
    """Draw symmetric noise: for every item another gold answer, uniform over those that surely differ.

    Draw a of an item is the distinct answer of the pool at seed_of(seed, "label", item, a) mod their number.
    The first draw that differs is the label.

    Args:
        gold: the items' own answers.
        pool: gold answers to draw from; pass the whole file's, so that every subset gets the same labels.
        items: numbers of the items, which seed their draws.
    Raises:
        ValueError: all draws of an item fail, since hardly any answer of the pool differs from its own.
    """
    answers = sorted({normalize_answer(answer) for answer in pool})
    labels: dict[int, str] = {}
    for attempt in range(MOST_DRAWS if answers else 0):
        waiting = [place for place in range(len(items)) if place not in labels]
        if not waiting:
            break
        drawn = [answers[seed_of(seed, "label", items[p], attempt) % len(answers)] for p in waiting]
        pairs = [(answer, gold[place]) for answer, place in zip(drawn, waiting, strict=True)]
        hits = zip(waiting, drawn, differ(pairs), strict=True)
        labels |= {place: answer for place, answer, differs in hits if differs}
    lost = [items[place] for place in range(len(items)) if place not in labels]
    if lost:
        raise ValueError(
            f"[noise] pool: expected answers that surely differ from item {lost[0]}'s gold answer, got "
            f"{len(answers)} distinct ones, and none of {MOST_DRAWS} draws does"
        )
    return [labels[place] for place in range(len(items))]


def num_corrupted(share: float, num_items: int) -> int:
    """Return floor(share * num_items) in decimal arithmetic: 0.29 of 100 is 29, not 28."""
    if not 0 <= share <= 1:
        raise ValueError(f"[noise] share: expected a number in [0, 1], got {share}")
    return floor(Fraction(str(share)) * num_items)


def corrupted_places(
    items: Sequence[int], share: float, seed: int, able: Sequence[bool] | None = None
) -> frozenset[int]:
    """Return the indices of the num_corrupted(share, len(items)) items that seed_of(seed, item) ranks first.

    Args:
        able: True if an item can be corrupted. Others are never chosen, but count towards len(items).
    Raises:
        ValueError: too few items can be corrupted.
    """
    count = num_corrupted(share, len(items))
    places = [place for place in range(len(items)) if able is None or able[place]]
    if count > len(places):
        raise ValueError(
            f"[noise] share: expected at most {len(places)} of {len(items)} items, those that have a wrong "
            f"label, got {share}, which is {count}"
        )
    return frozenset(sorted(places, key=lambda place: seed_of(seed, "corrupt", items[place]))[:count])


def noisy_labels(
    gold: Sequence[str], wrong: Sequence[str | None], share: float, seed: int, items: Sequence[int],
    differ: Differ = exactly_differ,
) -> list[NoisyLabel]:  # fmt: skip
    """Apply fixed label noise: num_corrupted(share, N) items carry their wrong label in every step.

    Args:
        wrong: each item's wrong label, from most_frequent_wrong or random_labels; None: it has none.
        items: numbers of the items, which decide who is corrupted.
    Raises:
        ValueError: too few items have a wrong label, or a wrong label may equal the gold answer.
    """
    corrupted = corrupted_places(items, share, seed, [label is not None for label in wrong])
    labels = []
    for place, (answer, other) in enumerate(zip(gold, wrong, strict=True)):
        hit = place in corrupted
        label = answer if other is None or not hit else other
        labels.append(NoisyLabel(gold=answer, label=label, corrupted=hit))
    check_differ(
        [items[place] for place in sorted(corrupted)], [noisy for noisy in labels if noisy.corrupted], differ
    )
    return labels


def check_differ(items: Sequence[int], labels: Sequence[NoisyLabel], differ: Differ) -> None:
    """Raise ValueError for a wrong label that the grader may accept as the gold answer."""
    found = differ([(label.label, label.gold) for label in labels])
    for item, label, differs in zip(items, labels, found, strict=True):
        if not differs:
            raise ValueError(
                f"[noise] label of item {item}: expected one that surely differs from the gold answer "
                f"{label.gold!r}, got {label.label!r}"
            )


def label_for_sample(
    gold: str, wrong: str, share: float, seed: int, item: int, step: int, sample: int
) -> str:
    """Return the label of one rollout under per-sample flips.

        wrong  if u(seed, item, step, sample) < share,  u uniform in [0, 1);  else gold

    A rollout that flips at one share flips at every larger one.
    """
    num_corrupted(share, 1)  # checks the share
    return wrong if (seed_of(seed, "flip", item, step, sample) >> 10) / 2**53 < share else gold


def with_false_negatives(
    rewards: Sequence[float], items: Sequence[int], corrupted: Collection[int]
) -> list[float]:
    """Set the rewards of all rollouts of corrupted items to 0; other rewards stay.

    Args:
        items: number of each rollout's item.
        corrupted: numbers of the corrupted items, the same in every step; see corrupted_places.
    """
    return [0.0 if item in corrupted else reward for reward, item in zip(rewards, items, strict=True)]
