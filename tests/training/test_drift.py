"""The drift guard: numbers by hand, for any micro-batches and ranks, and in a run's metrics."""

import math

import pytest
import torch

from fastrl.config import AlarmConfig
from fastrl.runtime.distributed import Ranks
from fastrl.training.alarm import DRIFT, Alarms
from fastrl.training.drift import Drift

NAN = math.nan


def drift(*batches) -> dict[str, float]:
    """batches: (differences trainer - engine of each sequence, a token None: left out of the loss)."""
    seen = Drift()
    for sequences in batches:
        d = [value for sequence in sequences for value in sequence]
        counted = torch.tensor([value is not None for value in d], dtype=torch.bool)
        engine = torch.linspace(-4, -1, len(d), dtype=torch.float64)
        trainer = engine + torch.tensor([9.0 if value is None else value for value in d], dtype=torch.float64)
        bounds = torch.tensor([0, *torch.tensor([len(s) for s in sequences]).cumsum(0)], dtype=torch.int32)
        seen.add(trainer, engine, counted, bounds)
    return seen.metrics(Ranks())


def test_by_hand():
    """w = 1/4, 1, 1, 2: ess = 4.25^2 / (5.0625 + 1) ... ; sequences 1/4 and 2."""
    two = math.log(2)
    found = drift([[-2 * two, 0.0, None], [0.0, two, NAN]])
    squares = 1 / 16 + 1 + 1 + 4
    assert found["drift/ess_tokens"] == pytest.approx(4.25**2 / (squares * 4))
    assert found["drift/ess_sequences"] == pytest.approx(2.25**2 / ((1 / 16 + 4) * 2))
    assert found["drift/share_beyond_2x"] == 1 / 4  # exactly twice is not beyond
    k3 = (1 / 4 - 1 + 2 * two) + (2 - 1 - two)
    assert found["drift/kl"] == pytest.approx(k3 / 4)
    assert found["drift/log_ratio/mean"] == pytest.approx(3 * two / 4)
    assert found["drift/log_ratio/max"] == pytest.approx(2 * two)


def test_quantiles_are_at_most_one_bin_too_large():
    values = torch.randn(999, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 0.03
    found = drift([values[:400].tolist(), values[400:].tolist()])
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
        exact = float(values.abs().sort().values[math.ceil(share * 999) - 1])
        assert exact <= found[f"drift/log_ratio/{name}"] <= exact * 10 ** (1 / 16) * 1.0001


def test_no_drift_is_one_and_zero():
    found = drift([[0.0] * 3, [0.0]])
    assert found["drift/ess_tokens"] == found["drift/ess_sequences"] == 1.0
    assert {value for name, value in found.items() if "ess" not in name} == {0.0}


def test_the_cut_into_micro_batches_and_what_is_added_twice_change_nothing():
    sequences = [[0.1, -0.3, NAN], [0.02], [None, 0.7, 0.7, -2.0], [None]]
    whole = drift(sequences)
    assert drift(*([sequence] for sequence in sequences)) == pytest.approx(whole)
    assert drift(sequences, sequences) == pytest.approx(whole)


def test_a_lost_token_is_held_and_shows():
    found = drift([[-math.inf, 0.0]])
    assert found["drift/log_ratio/max"] == 20.0 and found["drift/share_beyond_2x"] == 0.5
    assert found["drift/ess_tokens"] == pytest.approx(0.5) and math.isfinite(found["drift/kl"])


def test_nothing_counted_is_left_out():
    assert Drift().metrics(Ranks()) == drift([[None, NAN]]) == {}
    assert drift([[None]], [[0.5]])["drift/log_ratio/mean"] == pytest.approx(0.5)


class TwoRanks(Ranks):
    """This rank, and another that saw the same."""

    def sum(self, values):
        return [2 * value for value in values]


def test_ranks_are_summed():
    seen = Drift()
    seen.add(
        torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -2.0]), torch.ones(2).bool(), torch.tensor([0, 2])
    )
    assert seen.metrics(TwoRanks()) == pytest.approx(seen.metrics(Ranks()))


OFF = {
    "min_entropy_ratio": None,
    "length_factor": None,
    "max_clipped_fraction": None,
    "max_common_share": None,
}


@pytest.mark.parametrize(
    ("rule", "bound", "name", "values", "steps"),
    [
        ("min_ess", 0.8, "drift/ess_tokens", [0.1, 0.9, 0.8, 0.7, 0.7, 0.9], [5]),
        ("max_log_ratio", 0.2, "drift/log_ratio/mean", [0.3, 0.3, 0.2, 0.3, 0.21, 0.3], [5, 6]),
        ("min_ess", None, "drift/ess_tokens", [0.1] * 6, []),
        ("max_log_ratio", None, "drift/log_ratio/mean", [9.0] * 6, []),
    ],
)
def test_the_alarm(rule, bound, name, values, steps):
    """span 1: the moving average is the value itself; patience 2, and none of the two is the first step."""
    given = {**OFF, "min_ess": None, "max_log_ratio": None, rule: bound}
    alarms = Alarms(AlarmConfig(**given, span=1, patience=2, stop_on=("drift",)))
    rung = []
    for step, value in enumerate(values, 1):
        metrics, _ = alarms.judge({name: value})
        assert alarms.stops == bool(metrics[DRIFT]) and not metrics["alarm/collapse"]
        rung += [step] if metrics[DRIFT] else []
    assert rung == steps


def test_the_alarm_says_why():
    alarms = Alarms(AlarmConfig(**OFF, span=1, patience=1))
    told = [alarms.judge({"drift/ess_tokens": 0.5})[1] for _ in range(3)]
    assert told == [[], ["alarm/drift: drift/ess_tokens 0.5 is outside [0.8, inf] for 1 steps"], []]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_ess": 1.0}, r"\[alarm\] min_ess: expected a number in \(0, 1\) or null, got 1.0"),
        ({"max_log_ratio": 0.0}, r"\[alarm\] max_log_ratio: expected a number > 0 or null, got 0.0"),
    ],
)
def test_refusals_of_the_alarm(options, message):
    with pytest.raises(ValueError, match=message):
        AlarmConfig(**options)
