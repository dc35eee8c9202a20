"""Alarms: each rule on curves worked by hand, raised once, the same after a resume."""

import math

import pytest

from fastrl.config import AlarmConfig
from fastrl.training.alarm import COLLAPSE, EMPTY_CUTS, SATURATED, TRANSFER, Alarms

OFF = dict.fromkeys(
    ("min_entropy_ratio", "length_factor", "max_clipped_fraction", "max_common_share", "min_agreement_ratio")
)
CURVES = {
    "min_entropy_ratio": "entropy",
    "length_factor": "completions/mean_length",
    "max_clipped_fraction": "completions/clipped_ratio",
    "max_common_share": "answers/most_common_share",
    "min_agreement_ratio": "answers/agreement",
}


def rung(config: AlarmConfig, name: str, values) -> list[int]:
    """Steps, from 1, at which the run counts as collapsed."""
    alarms = Alarms(config)
    return [t for t, v in enumerate(values, 1) if alarms.judge({name: v})[0][COLLAPSE]]


def only(rule: str, bound: float, **options) -> AlarmConfig:
    # span 1: the moving average is the value itself, and the start the first one
    return AlarmConfig(**{**OFF, "span": 1, "patience": 2, rule: bound, **options})


@pytest.mark.parametrize(
    ("rule", "bound", "values", "steps"),
    [
        ("min_entropy_ratio", 0.5, [2.0, 0.9, 1.1, 0.9, 0.9, 0.9, 1.0], [5, 6]),
        (
            "min_entropy_ratio",
            0.5,
            [2.0, 8.0, 1.5, 1.5, 1.5],
            [],
        ),  # it is the start that counts, not the best
        ("length_factor", 2.0, [10, 21, 20, 21, 22, 20], [5]),
        ("length_factor", 2.0, [10, 5, 4.9, 4.9], [4]),
        ("length_factor", 2.0, [10, 21, 4, 4], [3, 4]),  # outside on either side
        ("max_clipped_fraction", 0.9, [1.0, 1.0, 1.0, 0.9, 0.95, 0.95], [3, 6]),
        ("max_common_share", 0.8, [0.1, 0.9, 0.7, 0.9, 0.81], [5]),
        ("min_agreement_ratio", 0.5, [0.8, 0.39, 0.4, 0.3, 0.2, 0.9], [5]),
    ],
)
def test_rules_of_collapse(rule, bound, values, steps):
    assert rung(only(rule, bound), CURVES[rule], values) == steps


@pytest.mark.parametrize("rule", sorted(CURVES))
def test_null_switches_a_rule_off(rule):
    wild = [1.0, *([0.001, 100.0] * 20)]
    assert rung(AlarmConfig(**OFF, span=1, patience=1), CURVES[rule], wild) == []


def test_the_moving_average_and_the_start():
    """span 3: start = (4 + 2 + 3) / 3 = 3; weight 1/2: e = 4, 3, 3, 1.5, 0.75, 0.375; below 1 from step 5."""
    values = [4, 2, 3, 0, 0, 0]
    config = AlarmConfig(**{**OFF, "min_entropy_ratio": 1 / 3, "span": 3, "patience": 1})
    assert rung(config, "entropy", values) == [5, 6]
    assert rung(
        AlarmConfig(**{**OFF, "min_entropy_ratio": 1 / 3, "span": 3, "patience": 2}), "entropy", values
    ) == [6]


def test_a_step_without_the_number_is_passed_over():
    config = only("min_entropy_ratio", 0.5)
    alarms = Alarms(config)
    seen = [
        alarms.judge(metrics)[0][COLLAPSE]
        for metrics in ({"entropy": 2.0}, {}, {"entropy": 0.5}, {"entropy": math.nan}, {"entropy": 0.5})
    ]
    assert seen == [0, 0, 0, 0, 1]


def test_saturation_is_of_the_training_reward():
    config = AlarmConfig(**OFF, span=1, saturation_patience=3)
    alarms = Alarms(config)
    rewards = [0.1, 0.5, 0.5, 0.4, 0.502, 0.6, 0.6, 0.6, 0.6]
    told = [(alarms.judge({"reward": r}), t) for t, r in enumerate(rewards, 1)]
    # best so far three steps ago against the best now: 0.5 >= 0.99 * 0.502 at step 5, 0.502 < 0.99 * 0.6 then
    assert [t for (metrics, _), t in told if metrics[SATURATED]] == [5, 9]
    assert [reasons for (_, reasons), _ in told if reasons] == [
        ["alarm/saturated: reward has not risen in 3 steps"]
    ]
    assert not any(Alarms(config).judge({"reward": -1.0})[0].values())


def test_raised_once_per_run_with_the_reason():
    config = only("max_common_share", 0.8, stop_on=())
    alarms = Alarms(config)
    told = [alarms.judge({CURVES["max_common_share"]: 1.0})[1] for _ in range(6)]
    line = "alarm/collapse: answers/most_common_share 1 is outside [0, 0.8] for 2 steps"
    assert told == [[], [], [line], [], [], []]


@pytest.mark.parametrize("cut", range(9))
def test_alarms_resume_alike_from_a_history(cut):
    """A run that was stopped after `cut` steps, with what metrics.jsonl then holds."""
    config = only("min_entropy_ratio", 0.5, stop_on=("collapse",))
    values = [2.0, 0.4, 0.4, None, 0.4, 1.9, 0.4, 0.4, 0.4]
    whole, history, expected = Alarms(config), [{"step": 0, "eval/avg@4": 0.5}], []
    for step, value in enumerate(values, 1):
        metrics = {} if value is None else {"entropy": value}
        alarms, reasons = whole.judge(metrics)
        expected.append((alarms, reasons, whole.stops))
        history.append({"step": step, "entropy": value, **alarms})
    resumed = Alarms(config, history[: 1 + cut])
    assert resumed.stops == (cut > 0 and expected[cut - 1][2])
    rest = []
    for value in values[cut:]:
        alarms, reasons = resumed.judge({} if value is None else {"entropy": value})
        rest.append((alarms, reasons, resumed.stops))
    assert rest == expected[cut:]
    assert [stops for _, _, stops in expected] == [False, False, True, True, True, False, False, True, True]


def test_what_stops():
    history = [{"step": 1, COLLAPSE: 1.0, SATURATED: 0.0}]
    assert not Alarms(AlarmConfig(), history).stops
    assert Alarms(AlarmConfig(stop_on=("collapse",)), history).stops
    assert not Alarms(AlarmConfig(stop_on=("saturation",)), history).stops
    assert Alarms(AlarmConfig(stop_on=("saturation", "collapse")), history).stops


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"min_entropy_ratio": 0.0},
            r"\[alarm\] min_entropy_ratio: expected a number in \(0, 1\) or null, got 0.0",
        ),
        (
            {"max_common_share": 1.0},
            r"\[alarm\] max_common_share: expected a number in \(0, 1\) or null, got 1.0",
        ),
        ({"length_factor": 1.0}, r"\[alarm\] length_factor: expected a number > 1 or null, got 1.0"),
        ({"patience": 0}, r"\[alarm\] patience: expected > 0, got 0"),
        ({"saturation_share": 1.5}, r"\[alarm\] saturation_share: expected a number in \[0, 1\], got 1.5"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        AlarmConfig(**options)


def test_rollouts_without_a_cut_raise_the_transfer_alarm():
    """Above a half for two steps in a row, none of which is the start's. Other runs have no such alarm."""
    config = AlarmConfig(span=1, patience=2, stop_on=("transfer",))
    alarms, rings, told = Alarms(config), [], []
    for share in (1.0, 0.6, 0.5, 0.6, 0.7, 0.4):
        found, fresh = alarms.judge({EMPTY_CUTS: share})
        rings.append(found[TRANSFER])
        told += fresh
        assert alarms.stops == bool(found[TRANSFER])
    assert rings == [0, 0, 0, 0, 1, 0]
    assert told == ["alarm/transfer: transfer/empty_cuts 0.7 is outside [0, 0.5] for 2 steps"]
    assert TRANSFER not in Alarms(config).judge({"entropy": 1.0})[0]
    off = Alarms(AlarmConfig(span=1, patience=1, max_empty_cuts=None))
    assert [off.judge({EMPTY_CUTS: 1.0})[0][TRANSFER] for _ in range(4)] == [0] * 4
