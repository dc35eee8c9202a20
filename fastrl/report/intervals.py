"""Confidence intervals of means over seeds: Student's t, without a statistics package."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean and its confidence interval; low and high are None for a single value."""

    mean: float
    low: float | None
    high: float | None
    n: int


def t_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Compute the interval of the mean of independent values, such as one value per seed.

        mean +- t_((1 + level) / 2, n - 1) * s / sqrt(n),   s^2 = sum of (v - mean)^2 / (n - 1)

    Assumes normally distributed values, which a few seeds cannot confirm.

    Args:
        values: finite, at least one.
        level: in (0, 1).
    """
    if not values or not all(map(math.isfinite, values)):
        raise ValueError(f"[t_interval] values: expected finite numbers, at least one, got {list(values)}")
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(mean=mean, low=None, high=None, n=n)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    half = t_quantile((1 + level) / 2, n - 1) * math.sqrt(variance / n)
    return Interval(mean=mean, low=mean - half, high=mean + half, n=n)


@cache
def t_quantile(share: float, freedom: int) -> float:
    """Return the quantile of Student's t distribution at `share`.

    Args:
        share: in [0.5, 1).
        freedom: degrees of freedom, >= 1.
    Numerics: relative error <= 1e-9 for shares up to 0.9999 (tests/report/test_intervals.py).
    """
    if not 0.5 <= share < 1:
        raise ValueError(f"[t_quantile] share: expected a number in [0.5, 1), got {share}")
    if freedom < 1:
        raise ValueError(f"[t_quantile] freedom: expected >= 1, got {freedom}")
    low, high = 0.0, math.pi / 2
    for _ in range(100):
        angle = (low + high) / 2
        if _within(angle, freedom) < 2 * share - 1:
            low = angle
        else:
            high = angle
    return math.sqrt(freedom) * math.tan(high)


def _within(angle: float, freedom: int) -> float:
    """Return P(|T| <= sqrt(freedom) * tan(angle)) by Abramowitz and Stegun 26.7.3 and 26.7.4."""
    odd = freedom % 2
    term, total = (math.cos(angle) if odd else 1.0), 0.0
    for k in range(2 + odd, freedom + 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (k - 1) / k
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total


def mean_curve(curves: Sequence[tuple[Sequence[int], Sequence[float]]]) -> dict[int, Interval]:
    """Return {step: interval of the mean over the curves with a value at this step}.

    Args:
        curves: (steps, values) of each curve.
    """
    at: dict[int, list[float]] = {}
    for steps, values in curves:
        for step, value in zip(steps, values, strict=True):
            at.setdefault(step, []).append(value)
    return {step: t_interval(at[step]) for step in sorted(at)}
