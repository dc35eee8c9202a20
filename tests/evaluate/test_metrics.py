"""avg@k, maj@k, pass@k and intervals against hand-worked values and enumeration of every subset."""

from collections import Counter
from fractions import Fraction
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrl.evaluate.metrics import bootstrap_interval, maj_at_k, pass_at_k, powers_of_two


def vote(answers):
    """Share of a majority vote that goes to "right"; None has no vote. Ties are shared."""
    counts = Counter(answer for answer in answers if answer is not None)
    best = max(counts.values(), default=0)
    winners = [answer for answer, count in counts.items() if count == best]
    return Fraction(winners.count("right"), len(winners)) if winners else Fraction(0)


def mean_over_subsets(answers, k, value):
    subsets = list(combinations(answers, k))
    return float(sum((Fraction(value(subset)) for subset in subsets), Fraction(0)) / len(subsets))


def test_pass_at_k_hand_worked():
    # 4 samples, 1 right: a pair holds it in 3 of 6 cases.
    assert pass_at_k(4, 1, 1) == 0.25
    assert pass_at_k(4, 1, 2) == 0.5
    assert pass_at_k(4, 1, 4) == 1.0
    # 5 samples, 2 right, 3 drawn: only 1 of 10 triples has neither.
    assert pass_at_k(5, 2, 3) == 0.9
    assert pass_at_k(3, 0, 3) == 0.0
    assert pass_at_k(1, 1, 1) == 1.0


def test_majority_hand_worked():
    assert maj_at_k(2, [1], 0, 3) == 1.0
    assert maj_at_k(1, [2], 0, 3) == 0.0
    assert maj_at_k(1, [1], 0, 2) == 0.5  # a tie of two is shared
    assert maj_at_k(1, [1, 1], 0, 3) == pytest.approx(1 / 3)
    assert maj_at_k(1, [], 3, 4) == 1.0  # the unparsed have no vote, even where they are most
    assert maj_at_k(0, [], 3, 2) == 0.0  # nobody votes
    # right, right, wrong; pairs: (r,r) wins, (r,w) twice a tie: (1 + 1/2 + 1/2) / 3.
    assert maj_at_k(2, [1], 0, 2) == pytest.approx(2 / 3)


@settings(max_examples=150, deadline=None)
@given(
    correct=st.integers(0, 4),
    wrong=st.lists(st.integers(0, 3), max_size=3),
    unparsed=st.integers(0, 3),
    data=st.data(),
)
def test_counts_equal_enumeration(correct, wrong, unparsed, data):
    total = correct + sum(wrong) + unparsed
    if total == 0:
        with pytest.raises(ValueError, match="k"):
            pass_at_k(0, 0, 1)
        return
    k = data.draw(st.integers(1, total))
    answers = ["right"] * correct + [None] * unparsed
    for i, count in enumerate(wrong):
        answers += [f"wrong {i}"] * count
    assert maj_at_k(correct, wrong, unparsed, k) == pytest.approx(
        mean_over_subsets(answers, k, vote), abs=1e-12
    )
    found = mean_over_subsets(answers, k, lambda subset: int("right" in subset))
    assert pass_at_k(total, correct, k) == pytest.approx(found, abs=1e-12)


def test_one_sample_is_accuracy():
    for correct in range(5):
        assert maj_at_k(correct, [4 - correct], 0, 1) == pytest.approx(correct / 4)
        assert pass_at_k(4, correct, 1) == pytest.approx(correct / 4)


def test_large_counts_stay_exact():
    assert maj_at_k(600, [400], 24, 1024) == 1.0
    # Two answers, an odd subset, none unparsed: the hypergeometric tail.
    tail = sum(comb(120, i) * comb(80, 15 - i) for i in range(8, 16)) / comb(200, 15)
    assert maj_at_k(120, [80], 0, 15) == pytest.approx(tail, rel=1e-12)
    assert pass_at_k(1024, 1, 512) == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize("call", [(4, 5, 1), (4, -1, 1), (4, 1, 0), (4, 1, 5), (0, 0, 1)])
def test_impossible_counts_are_refused(call):
    with pytest.raises(ValueError, match="expected"):
        pass_at_k(*call)


def test_interval_is_seeded_and_brackets_the_mean():
    values = [0.0] * 30 + [1.0] * 70
    low, high = bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) == (low, high)
    # Normal theory: 0.7 +- 1.96 * sqrt(0.21 / 100) = 0.7 +- 0.0898.
    assert low == pytest.approx(0.6102, abs=0.015)
    assert high == pytest.approx(0.7898, abs=0.015)


def test_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        sample = rng.random(60) < 0.4
        low, high = bootstrap_interval(sample.astype(float).tolist(), seed=trial, num_resamples=400)
        covered += low <= 0.4 <= high
    assert 0.90 <= covered / 200 <= 0.985


def test_interval_of_many_problems_is_drawn_in_parts():
    values = [float(i % 7 == 0) for i in range(30_000)]  # 34 resamples at once
    low, high = bootstrap_interval(values, seed=1, num_resamples=200)
    share, spread = 1 / 7, (1 / 7 * 6 / 7 / 30_000) ** 0.5
    assert low == pytest.approx(share - 1.96 * spread, abs=0.6 * spread)
    assert high == pytest.approx(share + 1.96 * spread, abs=0.6 * spread)


def test_interval_edges():
    assert bootstrap_interval([0.25], seed=0) == (0.25, 0.25)
    assert bootstrap_interval([1.0] * 5, seed=0) == (1.0, 1.0)
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_interval([], seed=0)
    with pytest.raises(ValueError, match="level"):
        bootstrap_interval([1.0], seed=0, level=1.0)


def test_powers_of_two():
    assert powers_of_two(1) == [1]
    assert powers_of_two(8) == [1, 2, 4, 8]
    assert powers_of_two(6) == [1, 2, 4, 6]
