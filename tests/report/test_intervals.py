"""Student's t against tables, closed forms and mpmath's incomplete beta."""

import math

import mpmath
import pytest

from fastrl.report.intervals import Interval, mean_curve, t_interval, t_quantile


def test_quantiles_are_those_of_the_tables():
    tabulated = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764, 5: 2.5706, 9: 2.2622, 10: 2.2281, 30: 2.0423}
    for freedom, value in tabulated.items():
        assert t_quantile(0.975, freedom) == pytest.approx(value, abs=5e-5)
    assert t_quantile(0.5, 3) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("share", [0.6, 0.9, 0.975, 0.9999])
@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 8, 33, 200])
def test_the_distribution_at_the_quantile_is_the_share(share, freedom):
    t = mpmath.mpf(t_quantile(share, freedom))
    x = freedom / (freedom + t**2)
    above = mpmath.betainc(mpmath.mpf(freedom) / 2, 0.5, 0, x, regularized=True) / 2
    assert float(above) == pytest.approx(1 - share, rel=1e-8)
    if freedom == 1:  # Cauchy
        assert float(t) == pytest.approx(math.tan(math.pi * (share - 0.5)), rel=1e-9)
    if freedom == 2:
        assert float(t) == pytest.approx((2 * share - 1) / math.sqrt(2 * share * (1 - share)), rel=1e-9)


def test_an_interval_by_hand():
    # deviations from 4: -3, -1, 2, -2, 4; squares 34 in all, s^2 = 34 / 4
    found = t_interval([1, 3, 6, 2, 8])
    half = 2.776445105 * math.sqrt(8.5 / 5)
    assert (found.mean, found.n) == (4, 5)
    assert (found.low, found.high) == (pytest.approx(4 - half), pytest.approx(4 + half))
    # two values: half = 12.706 * |a - b| / 2
    found = t_interval([0.25, 0.75])
    assert found.high == pytest.approx(0.5 + 12.7062047 * 0.25)
    narrow = t_interval([0.25, 0.75], level=0.5)
    assert narrow.high == pytest.approx(0.5 + 1.0 * 0.25)  # tan(pi / 4)


def test_one_value_says_nothing_of_its_interval():
    assert t_interval([0.5]) == Interval(mean=0.5, low=None, high=None, n=1)
    alike = t_interval([0.5, 0.5, 0.5])
    assert alike.low == alike.high == 0.5


def test_a_mean_curve_takes_what_is_known_at_each_step():
    curve = mean_curve([([0, 5, 10], [0.0, 1.0, 4.0]), ([0, 10], [1.0, 6.0]), ([], [])])
    assert list(curve) == [0, 5, 10]
    assert [(at.mean, at.n) for at in curve.values()] == [(0.5, 2), (1.0, 1), (5.0, 2)]
    assert curve[5].low is None and curve[10].high == pytest.approx(5 + 12.7062047)
    assert list(mean_curve([([10, 0], [1.0, 2.0])])) == [0, 10]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: t_interval([]), "at least one, got"),
        (lambda: t_interval([1.0, math.nan]), "finite numbers"),
        (lambda: t_quantile(1.0, 3), r"\[t_quantile\] share"),
        (lambda: t_quantile(0.2, 3), r"\[t_quantile\] share"),
        (lambda: t_quantile(0.9, 0), r"\[t_quantile\] freedom"),
    ],
)
def test_what_has_no_interval_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
