"""TraceLift's formulas against tables worked by hand: every clip, tie and form."""

from math import comb

import pytest

from fastrl.methods.tracelift.uplift_formulas import (
    BROKE,
    RAN,
    code_reward,
    execution_score,
    math_reward,
    mean_uplift,
    reasoning,
    sign_with_ties,
)


@pytest.mark.parametrize(
    ("with_trace", "without", "uplift"),
    [(1, 0, 1), (0, 1, -1), (2 / 3, 1 / 3, 1 / 3), (1 / 3, 1 / 3, 0), (0, 0, 0), (0.25, 1, -0.75), (3, 1, 1)],
)
def test_uplift(with_trace, without, uplift):
    assert mean_uplift(with_trace, without) == pytest.approx(uplift)


@pytest.mark.parametrize(
    ("form", "e2e", "quality", "uplift", "reward"),
    [
        ("product", 1, 0.8, 1.0, 0.9),  # 0.5 + 0.5 * 0.8
        ("product", 1, 0.8, 1 / 3, 0.5 + 0.4 / 3),
        ("product", 0, 0.8, 1 / 3, 0.4 / 3),
        ("product", 0, 0.8, -1.0, -0.4),  # the better it looks, the worse
        ("product", 0, 0.1, -1.0, -0.05),
        ("product", 1, 0.0, -1.0, 0.5),
        ("product", 1, 0.7, 0.0, 0.5),
        ("product", 1, 1.4, 1.0, 1.0),  # quality is clipped to 1
        ("product", 1, -0.3, 1.0, 0.5),  # and to 0
        ("quality", 0, 0.8, -1.0, 0.4),
        ("quality", 1, 1.4, 0.0, 1.0),
        ("uplift", 0, 0.8, -1.0, -0.5),
        ("uplift", 1, 0.8, 2 / 3, 0.5 + 1 / 3),
        ("sum", 0, 0.8, -1.0, -0.05),  # 0.5 * (0.8 - 1) / 2
        ("sum", 1, 0.6, 1.0, 0.9),
        ("execution", 1, 0.8, -1.0, 1.0),
        ("execution", 0, 0.8, 1.0, 0.0),
    ],
)
def test_math(form, e2e, quality, uplift, reward):
    assert math_reward(form, e2e, quality, uplift) == pytest.approx(reward)


@pytest.mark.parametrize(
    ("passes", "runs", "base_passes", "base_runs", "coefficient"),
    [
        (1, 3, 0, 3, 1), (3, 3, 2, 3, 1), (0, 3, 1, 3, -1), (2, 3, 3, 3, -1),
        # the paper's ties
        (0, 3, 0, 3, 0), (1, 3, 1, 3, 0.5), (2, 3, 2, 3, 2 / 3), (3, 3, 3, 3, 1),
        # other numbers of runs: rates decide, exactly
        (1, 3, 2, 6, 0.5), (2, 3, 6, 9, 2 / 3), (3, 3, 8, 8, 1), (0, 3, 0, 8, 0),
        (1, 3, 3, 8, -1), (1, 3, 2, 8, 1), (1, 10, 1, 10, 0.1), (6, 10, 3, 5, 0.6), (1, 2, 4, 8, 0.5),
        (2, 6, 1, 3, 1 / 3), (1, 4, 2, 8, 0.25),
    ],
)  # fmt: skip
def test_sign_with_ties(passes, runs, base_passes, base_runs, coefficient):
    assert sign_with_ties(passes, runs, base_passes, base_runs) == pytest.approx(coefficient)


def useless(p, runs, base_runs):
    """Return P(tie) and the mean coefficient of a trace that changes nothing, by enumeration."""
    tie = mean = 0.0
    for passes in range(runs + 1):
        for base in range(base_runs + 1):
            share = comb(runs, passes) * comb(base_runs, base) * p ** (passes + base)
            share *= (1 - p) ** (runs + base_runs - passes - base)
            tie += share * (passes * base_runs == base * runs)
            mean += share * sign_with_ties(passes, runs, base, base_runs)
    return tie, mean


def test_a_useless_trace_gains_by_ties_with_the_papers_runs_and_hardly_with_eight():
    # at p = 1/2: (1 + 9 + 9 + 1) / 64 tie, and give (0 + 9/2 + 6 + 1) / 64
    assert useless(0.5, 3, 3) == pytest.approx((20 / 64, 11.5 / 64))
    # 0 of both and all of both, 1/8 x 1/256 each; of the rest as many gain as lose
    assert useless(0.5, 3, 8) == pytest.approx((2 / 2048, 1 / 2048))


@pytest.mark.parametrize(
    ("passed", "total", "ran", "score"),
    [
        (8, 8, RAN, 1.0),
        (4, 8, RAN, 0.6),
        (0, 8, RAN, 0.2),
        (4, 8, BROKE, 0.45),  # half of the tests, then it broke
        (0, 8, BROKE, 0.05),
        (0, 8, 0.0, 0.0),  # no program at all
        (0, 0, RAN, 0.0),  # nothing to be measured by
    ],
)
def test_execution_score(passed, total, ran, score):
    assert execution_score(passed, total, ran) == pytest.approx(score)


@pytest.mark.parametrize(
    ("form", "hybrid", "quality", "coefficient", "reward"),
    [
        ("product", 0.6, 0.5, 1, 0.7),
        ("product", 0.6, 0.5, -1, 0.5),
        ("product", 0.6, 0.5, 2 / 3, 0.6 + 0.2 / 3),
        ("product", 0.6, 0.5, 0, 0.6),
        ("product", 1.0, 0.9, 1, 1.0),  # the bonus of a run that passes all is cut off
        ("product", 1.0, 0.9, -1, 0.82),
        ("product", 0.05, 0.9, -1, 0.0),  # and the penalty of one that fails
        ("product", 0.05, 1.7, 1, 0.25),
        ("quality", 0.2, 0.5, -1, 0.3),
        ("uplift", 0.2, 0.5, -1, 0.0),
        ("uplift", 0.3, 0.5, -1, 0.1),
        ("sum", 0.2, 0.5, 1, 0.35),  # 0.2 * 0.75
        ("sum", 0.6, 0.5, -1, 0.55),
        ("execution", 0.6, 0.9, -1, 0.6),
    ],
)
def test_code(form, hybrid, quality, coefficient, reward):
    assert code_reward(form, hybrid, quality, coefficient) == pytest.approx(reward)


def test_a_form_that_is_none():
    with pytest.raises(KeyError):
        reasoning("products", 1.0, 1.0)
