"""Bands worked by hand, the compared metrics, and the rate of false alarms."""

import math
from random import Random

import pytest

from fastrl.tools.compare.bands import block_values, blocks, is_compared, make_bands, parts, seed_values


def curve(values, metric="loss"):
    return [{"step": step, metric: value} for step, value in enumerate(values, 1)]


def test_blocks_by_hand():
    assert blocks(0) == [(0, 0)]
    assert blocks(3) == [(0, 0), (1, 3)]
    assert blocks(5) == [(0, 0), (1, 5)]
    assert blocks(12) == [(0, 0), (1, 5), (6, 10), (11, 12), (1, 12)]
    assert parts(61)[:2] == [(0, 0), (1, 6)] and parts(61)[-1] == (61, 61) and len(parts(61)) == 12
    assert len(parts(400)) == 13 and parts(400)[-1] == (375, 400)


def test_one_block_of_three_seeds_by_hand():
    """1, 2, 3: mean 2, variance 1. One band at 0.95: a = 0.025, and t_0.9875 of 2 degrees is 6.2053."""
    values = seed_values([curve([value]) for value in (1.0, 2.0, 3.0)])
    assert values == {(1, 1): {"loss": (1.0, 2.0, 3.0)}}
    band = make_bands({"sft": values}, 0.95)["sft"][1, 1]["loss"]
    half = 6.2053 * math.sqrt(1 + 1 / 3)
    assert (band.median, band.seeds) == (2.0, (1.0, 2.0, 3.0))
    assert band.low == pytest.approx(2 - half, abs=1e-3) and band.high == pytest.approx(2 + half, abs=1e-3)


def test_a_block_borrows_from_the_others_and_all_steps_do_not():
    """Blocks with variances 1 and 0, all steps with 1 / 4. Two bands a = 0.0125 and t of 4 degrees 4.3147,
    one of a = 0.025 and 2 degrees."""
    runs = [curve([value] * 5 + [2.0] * 5) for value in (1.0, 2.0, 3.0)]
    bands = make_bands({"sft": seed_values(runs)}, 0.95)["sft"]
    assert list(bands) == [(1, 5), (6, 10), (1, 10)]
    halves = [(band["loss"].high - band["loss"].low) / 2 for band in bands.values()]
    widen = math.sqrt(4 / 3)
    assert halves[0] == pytest.approx(4.3147 * math.sqrt((1 + 2 * 0.5) / 3) * widen, rel=1e-4)
    assert halves[1] == pytest.approx(4.3147 * math.sqrt((0 + 2 * 0.5) / 3) * widen, rel=1e-4)
    assert halves[2] == pytest.approx(6.2053 * 0.5 * widen, rel=1e-4)


def test_what_no_seed_changes_has_the_floor():
    """0.02 of the largest mean; of a share at least 0.05."""
    runs = [
        [
            {"step": step, "learning_rate": 0.001 * min(step, 5), "completions/clipped_ratio": 0.0}
            for step in range(1, 11)
        ]
        for _ in range(4)
    ]
    bands = make_bands({"rl": seed_values(runs)})["rl"]
    first = bands[1, 5]
    assert first["learning_rate"].median == pytest.approx(0.003)
    assert first["learning_rate"].high == pytest.approx(0.003 + 0.02 * 0.005)
    assert (first["completions/clipped_ratio"].low, first["completions/clipped_ratio"].high) == (-0.05, 0.05)


def test_values_of_a_block():
    """Means over known values; of evaluations the last; None where all are null; nothing before its end."""
    lines = [
        {"step": 0, "eval/avg@4": 0.1},
        {"step": 1, "loss": 1.0, "entropy": None, "time/update_s": 3.0, "eval/avg@4": 0.2},
        {"step": 2, "loss": None, "entropy": None, "eval/avg@4": 0.4, "eval/avg@4/low": 0.3},
        {"step": 3, "loss": 4.0},
    ]
    assert block_values(lines, (1, 3)) == {"loss": 2.5, "entropy": None, "eval/avg@4": 0.4}
    assert block_values(lines, (0, 0)) == {"eval/avg@4": 0.1}
    assert block_values(lines, (1, 4)) == {} and block_values([], (0, 0)) == {}


def test_metrics_that_not_all_seeds_have_take_no_part():
    runs = [curve([1.0, 2.0]), curve([1.0, 2.0]), curve([1.0, 2.0])]
    runs[1][0]["entropy"] = 1.0
    for lines in runs:
        lines[-1] |= {"eval/maj@2": 0.5, "eval/maj@4": 0.6}
    assert list(seed_values(runs)[1, 2]) == ["loss", "eval/maj@4"]  # maj@2 is the smaller k
    runs[2].pop()
    assert list(seed_values(runs)) == [(1, 1)]  # as far as the shortest


@pytest.mark.parametrize(
    "name, part",
    [
        ("reward", True), ("rewards/answer/mean", True), ("rewards/answer/std", False), ("eval/avg@4", True),
        ("eval/avg@4/low", False), ("time/update_s", False), ("engine/policy/requests", False),
    ],
)  # fmt: skip
def test_what_is_compared(name, part):
    assert is_compared(name) is part


def drawn(random, shift=0.0, steps=30):
    """A curve that rises from 0.6 to 0.9, a seed's own offset, and noise that lasts from step to step."""
    offset, noise, lines = random.gauss(0, 0.01), 0.0, []
    for step in range(1, steps + 1):
        noise = 0.5 * noise + random.gauss(0, 0.03)
        level = 0.9 - 0.3 * math.exp(-step / 8)
        lines.append(
            {"step": step, "reward": level + offset + noise + shift, "entropy": 1 - level + noise / 4}
        )
    return lines


def test_a_new_seed_is_inside_and_a_shift_is_not():
    """At a level of 0.95, of 300 new seeds at most 15 on average fail; a shift of 0.12, five deviations of a
    block, is found."""
    random = Random(0)
    alarms = found = 0
    for _ in range(300):
        bands = make_bands({"rl": seed_values([drawn(random) for _ in range(5)])}, 0.95)["rl"]

        def outside(lines, bands=bands):
            values = {block: block_values(lines, block) for block in bands}
            return any(
                not band.low <= values[block][name] <= band.high
                for block, metrics in bands.items()
                for name, band in metrics.items()
            )

        alarms += outside(drawn(random))
        found += outside(drawn(random, shift=0.12))
    assert alarms <= 15 and found >= 285, (alarms, found)
