"""Scarce data: a few problems of every difficulty, each smaller set inside all larger ones."""

from __future__ import annotations

from collections.abc import Sequence

from fastrl.runtime.seeding import seed_of


def difficulty_bins(num_correct: Sequence[int], num_samples: int) -> list[list[int]]:
    """Rows by how often they were solved, from once to all times but one.

        bins[c - 1] = rows with num_correct == c,   c = 1 ... k - 1

    Rows that no sample solved, or every one, are in no bin: a group of theirs hardly ever has an advantage.

    Args:
        num_correct: of each row, 0 to num_samples.
        num_samples: k >= 2.
    """
    if num_samples < 2:
        raise ValueError(f"[subset] num_samples: expected >= 2, got {num_samples}")
    bins: list[list[int]] = [[] for _ in range(num_samples - 1)]
    for row, count in enumerate(num_correct):
        if not 0 <= count <= num_samples:
            raise ValueError(f"[subset] num_correct: expected 0 to {num_samples} for row {row}, got {count}")
        if 0 < count < num_samples:
            bins[count - 1].append(row)
    return bins


def round_robin(bins: Sequence[Sequence[int]]) -> list[int]:
    """The first of each bin, then the second of each, ...; a bin that has run out is passed over."""
    longest = max(map(len, bins), default=0)
    return [bin_[place] for place in range(longest) for bin_ in bins if place < len(bin_)]


def stratified_order(num_correct: Sequence[int], num_samples: int, seed: int) -> list[int]:
    """The rows of all bins in the order in which a round-robin takes them: `order[:N]` is the subset of N.

    Bins are visited from the hardest, c = 1, to the easiest, again and again; each visit takes a random row
    that was not taken before (arXiv 2604.18574, section 2). So a subset is inside every larger one, and until
    a bin runs out, bins differ by at most one. A row's luck is a function of (seed, row) alone.

    Args: as difficulty_bins.
    """

    def luck(row: int) -> int:
        return seed_of(seed, "subset", row)

    return round_robin([sorted(bin_, key=luck) for bin_ in difficulty_bins(num_correct, num_samples)])
