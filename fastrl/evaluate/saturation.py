"""Saturation of a run's training reward, and the gains in held-out accuracy before and after it.

Definitions of arXiv 2604.18574, section 3.1, as printed and as evidently meant. rewards[t - 1] belongs to
update t = 1 ... T; an evaluation curve is {update: value}.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

RAPID = 100
"""A run on 8 problems with t_sat below this saturates rapidly."""
Curve = Mapping[int, float]
Rule = Callable[[Sequence[float]], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gains:
    """Gains of an evaluation metric until saturation and after it."""

    point: int
    """Evaluated update nearest to t_sat (the earlier on a tie), where M(t_sat) is read."""
    until: float
    """Delta_sat = M(t_sat) - M(0)."""
    after: float
    """Delta*_post as printed: the maximum includes t_sat itself, so it is never negative."""
    strictly_after: float | None
    """Delta*_post over later evaluations only; None if there are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdvantageSplit:
    """Fractions of groups; they add up to 1."""

    too_easy: float
    too_hard: float
    effective: float


def ema(values: Sequence[float], span: int = 5) -> list[float]:
    """Return the exponential moving average: e_1 = v_1,  e_t = e_(t-1) + 2 / (span + 1) * (v_t - e_(t-1))."""
    if span < 1:
        raise ValueError(f"[saturation] span: expected >= 1, got {span}")
    check_finite("values", values)
    weight = 2 / (span + 1)
    return list(accumulate(values, lambda average, value: average + weight * (value - average)))


def saturation_step(rewards: Sequence[float], *, share: float = 0.99, tail: int = 50) -> int | None:
    """Return the first update whose reward reaches `share` of the maximum of the whole run.

        t_sat = min { t in 1 ... T - tail : rbar_t >= share * max over s in 1 ... T of rbar_s }

    Noise of single batches raises the maximum and delays t_sat, so report saturation_step(ema(rewards)) as
    well. A curve that is 0 throughout has t_sat = 1.

    Args:
        rewards: mean over an update's prompts of their group's mean reward.
    Returns: None if no update qualifies, as in any run of at most `tail` updates.
    Raises:
        ValueError: rewards are empty, not finite, or all negative.
    """
    check_finite("rewards", rewards)
    best = max(rewards)
    if best < 0:
        raise ValueError(f"[saturation] rewards: expected one that is >= 0, got at most {best}")
    early = rewards[: max(0, len(rewards) - tail)]
    return next((t for t, reward in enumerate(early, 1) if reward >= share * best), None)


def is_rapid(t_sat: int | None) -> bool:
    """Return True if t_sat < 100; a run that did not saturate is not rapid."""
    return t_sat is not None and t_sat < RAPID


def gains(curve: Curve, t_sat: int) -> Gains:
    """Return the gains of an evaluation metric until saturation and after it.

        Delta_sat = M(t_sat) - M(0),   Delta*_post = max over t in [t_sat, T] of M(t) - M(t_sat)

    M(t_sat) is M at the nearest evaluated update; "after" includes that update or, strictly, does not.

    Args:
        curve: {update: value}, with update 0.
    """
    check_finite("curve", list(curve.values()))
    if 0 not in curve:
        raise ValueError(f"[saturation] curve: expected a value at update 0, got {sorted(curve)}")
    point = nearest(curve, t_sat)
    later = [curve[t] - curve[point] for t in curve if t > point]
    return Gains(
        point=point,
        until=curve[point] - curve[0],
        after=max([0.0, *later]),
        strictly_after=max(later, default=None),
    )


def gap_to_more_data(larger: Curve, smaller: Curve, t_sat: int) -> float:
    """Return the lead of the run on more problems at the update where the run on fewer problems saturates.

        G_sat(n', n) = M^n'(t_sat^n) - M^n(t_sat^n),   n' > n

    Each curve is read at its own nearest evaluation.
    """
    for name, curve in (("larger", larger), ("smaller", smaller)):
        check_finite(name, list(curve.values()))
    return larger[nearest(larger, t_sat)] - smaller[nearest(smaller, t_sat)]


def nearest(curve: Curve, t: int) -> int:
    """Return the evaluated update nearest to t, the earlier one on a tie."""
    return min(curve, key=lambda point: (abs(point - t), point))


def advantage_split(groups: Sequence[Sequence[float]], solved: float = 1.0) -> AdvantageSplit:
    """Return the fractions of groups by their rewards: equal and >= solved (too_easy), equal and below it
    (too_hard), or not equal (effective).

    Args:
        groups: rewards of each group's rollouts, at least one.
        solved: reward of a correct answer.
    """
    for group in groups:
        check_finite("group", group)
    if not groups:
        raise ValueError("[saturation] groups: expected at least one, got none")
    flat = [group[0] for group in groups if len(set(group)) == 1]
    easy = sum(reward >= solved for reward in flat)
    return AdvantageSplit(
        too_easy=easy / len(groups),
        too_hard=(len(flat) - easy) / len(groups),
        effective=(len(groups) - len(flat)) / len(groups),
    )


def has_saturated(
    rewards: Sequence[float], *, share: float = 0.99, patience: int = 50, span: int = 5
) -> bool:
    """Return True if the reward has not risen in the last `patience` updates before t; for early stopping.

        b_s = max over u <= s of ema(rewards)_u;   saturated  <=>  b_(t - patience) >= share * b_t > 0

    This is the definition of t_sat for a run that ends now, so it uses only past updates.
    """
    best = list(accumulate(ema(rewards, span), max))
    return len(best) > patience and best[-1] > 0 and best[-1 - patience] >= share * best[-1]


def has_collapsed(values: Sequence[float], *, keep: float = 0.5, patience: int = 5, span: int = 5) -> bool:
    """Return True if a metric has collapsed, such as gold accuracy, entropy or distinct answers.

        b_s = max over u <= s of ema(values)_u;   collapsed  <=>  ema(values)_s < keep * b_s in the last
                                                                  `patience` updates s

    Uses only past updates; values must be >= 0.
    """
    averages = ema(values, span)
    if min(values) < 0:
        raise ValueError(f"[saturation] values: expected >= 0, got {min(values)}")
    pairs = list(zip(averages, accumulate(averages, max), strict=True))[-patience:]
    return len(pairs) == patience and all(average < keep * best for average, best in pairs)


def first_alarm(values: Sequence[float], rule: Rule) -> int | None:
    """Return the first update t at which rule(values[:t]) holds; None if it never does."""
    return next((t for t in range(1, len(values) + 1) if rule(values[:t])), None)


def check_finite(name: str, values: Sequence[float]) -> None:
    if not values:
        raise ValueError(f"[saturation] {name}: expected at least one number, got none")
    for index, value in enumerate(values):
        if not math.isfinite(value):
            raise ValueError(f"[saturation] {name}: expected finite numbers, got {value} at index {index}")
