"""Metrics over several completions per problem, and bootstrap intervals of their mean."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import numpy as np

DRAWS_AT_ONCE = 1 << 20


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Return the unbiased estimate of pass@k: k of n samples, without replacement, include a correct one.

        1 - C(n - c, k) / C(n, k)

    Args:
        num_samples: n >= 1.
        num_correct: c in [0, n].
        k: in [1, n].
    Source: Chen et al. 2021, arXiv:2107.03374.
    """
    _check_counts(num_samples, num_correct, k)
    return 1.0 - comb(num_samples - num_correct, k) / comb(num_samples, k)


def maj_at_k(num_correct: int, wrong_counts: Sequence[int], num_unparsed: int, k: int) -> float:
    """Return the probability that a majority vote over k samples, drawn without replacement, is correct.

        E_subset[ 1[the correct answer has most votes] / number of answers tied for most votes ]

    A completion without an answer counts in the subset but has no vote; a subset without votes is wrong.
    Exact, by counting subsets; with k = n it is the plain majority vote, with ties shared.

    Args:
        num_correct: samples with the correct answer, in any spelling.
        wrong_counts: samples of each distinct wrong answer.
        num_unparsed: samples without an answer.
        k: in [1, n], where n is the sum of all counts.
    """
    total = num_correct + sum(wrong_counts) + num_unparsed
    _check_counts(total, num_correct, k)
    if any(count < 0 for count in (*wrong_counts, num_unparsed)):
        raise ValueError(f"[maj_at_k] counts: expected >= 0, got {list(wrong_counts)} and {num_unparsed}")
    if k == total:  # only one subset: a shortcut for the loop below
        most = max([*wrong_counts, num_correct])
        wins = num_correct == most > 0
        return 1.0 / (1 + list(wrong_counts).count(most)) if wins else 0.0
    won = 0.0
    for votes in range(1, min(num_correct, k) + 1):
        ways = _rivals_with_at_most(votes, wrong_counts, num_unparsed, k - votes)
        won += comb(num_correct, votes) * sum(count / (tied + 1) for tied, count in enumerate(ways))
    return won / comb(total, k)


def _rivals_with_at_most(votes: int, counts: Sequence[int], num_unparsed: int, size: int) -> list[int]:
    """Return [t]: number of ways to draw `size` other samples so that no wrong answer has more than `votes`,
    and exactly t have `votes`."""
    ways = [[comb(num_unparsed, drawn)] for drawn in range(size + 1)]  # [drawn][tied]; tied <= drawn // votes
    for count in counts:
        choose = [comb(count, taken) for taken in range(min(count, votes) + 1)]
        grown = [[0] * (drawn // votes + 1) for drawn in range(size + 1)]
        for drawn, row in enumerate(ways):
            for taken, choices in enumerate(choose[: size - drawn + 1]):
                target = grown[drawn + taken]
                for tied, number in enumerate(row):
                    if number:
                        target[tied + (taken == votes)] += number * choices
        ways = grown
    return ways[size]


def bootstrap_interval(
    values: Sequence[float], *, seed: int, level: float = 0.95, num_resamples: int = 4000
) -> tuple[float, float]:
    """Return the percentile-bootstrap interval of the mean over problems.

        quantiles (1 - level)/2 and (1 + level)/2 of mean(values[i] for i drawn with replacement)

    It covers the choice of problems, not of samples. One problem gives an interval of width 0, which carries
    no information.

    Args:
        values: one number per problem; at least one.
        level: in (0, 1).
    """
    if len(values) == 0:
        raise ValueError("[bootstrap_interval] values: expected at least one problem, got none")
    if not 0 < level < 1:
        raise ValueError(f"[bootstrap_interval] level: expected a number in (0, 1), got {level}")
    data = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(seed)
    chunk = max(1, DRAWS_AT_ONCE // len(data))  # all draws at once would take gigabytes for large sets
    means = [
        data[rng.integers(0, len(data), (min(chunk, num_resamples - first), len(data)))].mean(axis=1)
        for first in range(0, num_resamples, chunk)
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def powers_of_two(limit: int) -> list[int]:
    """Return 1, 2, 4, ... up to limit, and limit itself."""
    powers = [2**i for i in range(limit.bit_length()) if 2**i <= limit]
    return powers if limit in powers else [*powers, limit]


def _check_counts(num_samples: int, num_correct: int, k: int) -> None:
    if not 0 <= num_correct <= num_samples:
        raise ValueError(f"[metrics] num_correct: expected 0 to {num_samples}, got {num_correct}")
    if not 1 <= k <= num_samples:
        raise ValueError(f"[metrics] k: expected 1 to {num_samples} (samples per problem), got {k}")
