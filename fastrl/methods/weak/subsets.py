"""Nested subsets for training on few problems, stratified by difficulty."""

from __future__ import annotations

from collections.abc import Sequence

from fastrl.runtime.seeding import seed_of


def difficulty_bins(num_correct: Sequence[int], num_samples: int) -> list[list[int]]:
    """Bin rows by their number of correct samples.

        bins[c - 1] = rows with num_correct == c,   c = 1 ... k - 1

    Rows with no or only correct samples are in no bin: their groups hardly ever have an advantage.

    Args:
        num_correct: correct samples of each row, 0 to num_samples.
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
    """Interleave the bins: the first of each, then the second of each, ...; empty bins are skipped."""
    longest = max(map(len, bins), default=0)
    return [bin_[place] for place in range(longest) for bin_ in bins if place < len(bin_)]


def stratified_order(num_correct: Sequence[int], num_samples: int, seed: int) -> list[int]:
    """Return the rows of all bins in round-robin order: `order[:N]` is the subset of N rows.

    The rounds visit the bins from the hardest, c = 1, to the easiest; each visit takes a random remaining row
    (arXiv 2604.18574, section 2). So a subset lies inside every larger one, and until a bin is empty, the
    bins' counts differ by at most one. A row's rank within its bin depends only on (seed, row).

    Args: as difficulty_bins.
    """

    def rank(row: int) -> int:
        return seed_of(seed, "subset", row)

    return round_robin([sorted(bin_, key=rank) for bin_ in difficulty_bins(num_correct, num_samples)])
