"""Saturation, gains, gaps, alarms and the split of groups, on curves worked by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrl.evaluate.saturation import (
    AdvantageSplit,
    advantage_split,
    ema,
    first_alarm,
    gains,
    gap_to_more_data,
    has_collapsed,
    has_saturated,
    is_rapid,
    nearest,
    saturation_step,
)

rewards_of_any_run = st.lists(st.floats(0, 1), min_size=1, max_size=120)


def ramp(until, length):
    """t / until, and 1 from t = until on."""
    return [min(1.0, t / until) for t in range(1, length + 1)]


@pytest.mark.parametrize(
    "rewards, t_sat",
    [
        (ramp(100, 200), 99),  # 0.99 >= 0.99 * 1
        (ramp(10, 60), 10),  # 0.9 < 0.99; t = T - 50 is looked at
        (ramp(11, 61), 11),
        (ramp(10, 59), None),  # t = 9 is the last that is looked at
        (ramp(200, 200), None),  # still rising: 0.75 at t = 150
        (ramp(5, 55), 5),
        ([0.3] * 51, 1),
        ([0.0] * 51, 1),  # 0 >= 0.99 * 0, as printed
        ([0.3] * 50, None),
        ([1.0], None),
        ([0.5] * 60 + [1.0] + [0.5] * 60, 61),
        ([0.5] * 100 + [1.0], None),  # the maximum comes in the last 50
        ([0.2, 0.99, 0.1, 1.0] + [0.4] * 50, 2),
    ],
)
def test_saturation_steps_by_hand(rewards, t_sat):
    assert saturation_step(rewards) == t_sat


def test_saturation_with_other_thresholds():
    assert saturation_step(ramp(10, 20), share=0.5, tail=3) == 5
    assert saturation_step(ramp(10, 20), share=1.0, tail=10) == 10
    assert saturation_step(ramp(10, 20), share=1.0, tail=11) is None


def test_one_lucky_batch_delays_the_raw_curve_and_not_the_smoothed_one():
    rewards = [0.9] * 119 + [0.92] + [0.9] * 80
    assert saturation_step(rewards) == 120  # 0.99 * 0.92 = 0.9108
    assert saturation_step(ema(rewards)) == 1  # 0.99 * (0.9 + 0.02 / 3) = 0.8976


def test_the_moving_average_by_hand():
    assert ema([1.0, 4.0, 4.0, 1.0]) == pytest.approx([1.0, 2.0, 8 / 3, 19 / 9])
    assert ema([0.2, 0.7], span=1) == pytest.approx([0.2, 0.7])
    assert ema([0.5, 0.1], span=3) == pytest.approx([0.5, 0.3])
    with pytest.raises(ValueError, match=r"\[saturation\] span: expected >= 1, got 0"):
        ema([1.0], span=0)


def test_rapid_is_before_update_100():
    assert [is_rapid(t) for t in (1, 99, 100, None)] == [True, True, False, False]


CURVE = {0: 0.2, 25: 0.4, 50: 0.5, 75: 0.45, 100: 0.55}


@pytest.mark.parametrize(
    "curve, t_sat, point, until, after, strictly_after",
    [
        (CURVE, 50, 50, 0.3, 0.05, 0.05),
        (CURVE, 62, 50, 0.3, 0.05, 0.05),  # 12 from 50, 13 from 75
        (CURVE, 63, 75, 0.25, 0.1, 0.1),
        (CURVE, 1, 0, 0.0, 0.35, 0.35),
        (CURVE, 140, 100, 0.35, 0.0, None),
        ({0: 0.2, 50: 0.5, 100: 0.4}, 75, 50, 0.3, 0.0, -0.1),  # a tie: the earlier; then it falls
        ({100: 0.4, 0: 0.2, 50: 0.5}, 75, 50, 0.3, 0.0, -0.1),
        ({0: 0.3}, 7, 0, 0.0, 0.0, None),
    ],
)
def test_gains_by_hand(curve, t_sat, point, until, after, strictly_after):
    found = gains(curve, t_sat)
    assert found.point == nearest(curve, t_sat) == point
    assert found.until == pytest.approx(until) and found.after == pytest.approx(after)
    assert found.strictly_after == (None if strictly_after is None else pytest.approx(strictly_after))


def test_gains_need_the_start():
    with pytest.raises(ValueError, match=r"\[saturation\] curve: expected a value at update 0, got \[50\]"):
        gains({50: 0.1}, 50)


def test_the_gap_is_read_on_each_curves_own_grid():
    larger, smaller = {0: 0.1, 20: 0.3, 40: 0.6}, {0: 0.1, 25: 0.35, 50: 0.4}
    assert gap_to_more_data(larger, smaller, 29) == pytest.approx(0.3 - 0.35)  # at 20 and at 25
    assert gap_to_more_data(larger, smaller, 31) == pytest.approx(0.6 - 0.35)  # at 40 and at 25


def test_the_split_of_groups_by_hand():
    groups = [[1, 1], [0, 0, 0], [0, 1], [0.5, 0.5], [1.1, 1.1], [0.1], [1.0, 1.0 + 1e-16], [0.3, 0.2]]
    #          easy    hard       teaches hard       easy        hard   easy (1 + 1e-16 is 1)   teaches
    assert advantage_split(groups) == AdvantageSplit(too_easy=3 / 8, too_hard=3 / 8, effective=2 / 8)
    assert advantage_split([[0.5, 0.5]], solved=0.5) == AdvantageSplit(
        too_easy=1.0, too_hard=0.0, effective=0.0
    )


def test_a_plateau_alarms_when_it_is_50_updates_long():
    assert first_alarm([0.7] * 60, has_saturated) == 51
    assert first_alarm([0.7] * 50, has_saturated) is None
    # rises to update 100 and stays: the average passes 0.99 at 105, where 1/3 of the lag is left to go
    curve = ramp(100, 200)
    best = ema(curve)
    reached = next(t for t, value in enumerate(best, 1) if value >= 0.99 * best[t + 49])
    assert first_alarm(curve, has_saturated) == reached + 50
    assert 140 < reached + 50 < 160


def test_nothing_learnt_is_not_saturation_and_a_rise_is_none():
    assert first_alarm([0.0] * 200, has_saturated) is None
    assert first_alarm(ramp(400, 400), has_saturated) is None


@given(rewards_of_any_run)
def test_the_alarm_is_the_definition_had_the_run_ended_now(rewards):
    for t in range(1, len(rewards) + 1):
        now = rewards[:t]
        learnt = max(ema(now)) > 0
        assert has_saturated(now) == (learnt and saturation_step(ema(now)) is not None)


def test_a_collapse_alarms_after_five_low_updates():
    # averages after 20 ones: 2/3, 4/9, 8/27, ...: below half from the second zero on
    curve = [1.0] * 20 + [0.0] * 10
    assert first_alarm(curve, has_collapsed) == 20 + 2 + 4
    assert first_alarm(curve, lambda past: has_collapsed(past, keep=0.7)) == 20 + 1 + 4
    assert first_alarm(curve, lambda past: has_collapsed(past, patience=1)) == 22


def test_a_dip_is_no_collapse():
    # 4/9 after two zeros, then 17/27 > 1/2
    assert first_alarm([1.0] * 20 + [0.0, 0.0] + [1.0] * 10, has_collapsed) is None
    assert first_alarm([0.5, 0.4] * 50, has_collapsed) is None
    assert first_alarm([0.0] * 30, has_collapsed) is None
    assert first_alarm([1.0, 0.0, 0.0], has_collapsed) is None  # shorter than its patience


def test_alarms_only_look_back():
    curve = [*ramp(20, 90), *[0.1] * 30]
    for rule in (has_saturated, has_collapsed):
        t = first_alarm(curve, rule)
        assert first_alarm(curve[:t], rule) == first_alarm([*curve[:t], 0.9, 0.0], rule) == t


BROKEN = [math.nan, math.inf, -math.inf]
ASKED = [
    ("rewards", saturation_step),
    ("values", ema),
    ("values", has_saturated),
    ("values", has_collapsed),
    ("group", lambda values: advantage_split([[1.0], values])),
    ("curve", lambda values: gains(dict(enumerate(values)), 1)),
    ("larger", lambda values: gap_to_more_data(dict(enumerate(values)), {0: 1.0}, 1)),
    ("smaller", lambda values: gap_to_more_data({0: 1.0}, dict(enumerate(values)), 1)),
]


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("name, ask", ASKED, ids=[f"{k}-{name}" for k, (name, _) in enumerate(ASKED)])
def test_what_is_no_number_is_refused_by_name(name, ask, broken):
    with pytest.raises(ValueError, match=rf"\[saturation\] {name}: expected finite numbers, got -?(nan|inf)"):
        ask([0.5, 0.6, broken, 0.7])
    with pytest.raises(ValueError, match=rf"\[saturation\] {name}: expected at least one number, got none"):
        ask([])


def test_empty_and_negative_are_refused():
    with pytest.raises(ValueError, match=r"\[saturation\] groups: expected at least one"):
        advantage_split([])
    with pytest.raises(
        ValueError, match=r"\[saturation\] rewards: expected one that is >= 0, got at most -1"
    ):
        saturation_step([-2.0, -1.0])
    with pytest.raises(ValueError, match=r"\[saturation\] values: expected >= 0, got -0\.5"):
        has_collapsed([1.0, -0.5])
