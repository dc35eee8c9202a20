"""Metrics of a reward model against two groups worked out by hand, and its calibration."""

from __future__ import annotations

import math

import pytest

from fastrl.methods.tracelift.calibration import plot_calibration
from fastrl.methods.tracelift.rubric_agreement import (
    JudgedTrace,
    calibration,
    calibration_error,
    rubric_metrics,
)

DIMENSIONS = ("clear", "right")


def trace(group, positive, score, total, kind=None, levels=(4, 4), gold=(4, 4)):
    return JudgedTrace(
        group=group, positive=positive, negative_kind=kind, score=score, total=total, levels=levels,
        gold_levels=gold,
    )  # fmt: skip


# the slip of group 1 stands as high as its positive: it is not below
TRACES = [
    trace(0, True, 0.9, 1.0),
    trace(0, False, 0.3, 0.2, "slip", levels=(1, 2), gold=(1, 3)),
    trace(0, False, 0.5, 0.4, "skip", levels=(0, 0), gold=(2, 2)),
    trace(1, True, 0.6, 1.0, levels=(4, 3)),
    trace(1, False, 0.6, 0.0, "slip", levels=(0, 0), gold=(0, 0)),
]


def test_the_metrics_by_hand():
    metrics = rubric_metrics(TRACES, DIMENSIONS)
    assert metrics.pop("mae") == pytest.approx((0.1 + 0.1 + 0.1 + 0.4 + 0.6) / 5)
    assert metrics.pop("rmse") == pytest.approx(math.sqrt((0.01 * 3 + 0.16 + 0.36) / 5))
    assert metrics.pop("pair_accuracy") == pytest.approx(2 / 3)
    assert metrics.pop("group_accuracy") == 0.5
    assert metrics.pop("level_accuracy/clear") == pytest.approx(4 / 5)
    assert metrics.pop("level_accuracy/right") == pytest.approx(2 / 5)
    # bins 0.3 | 0.5 | 0.6 0.6 | 0.9
    assert metrics.pop("ece") == pytest.approx((0.1 + 0.1 + 2 * abs(0.6 - 0.5) + 0.1) / 5)
    assert metrics.pop("mae/slip") == pytest.approx((0.1 + 0.6) / 2)
    assert metrics.pop("rmse/slip") == pytest.approx(math.sqrt((0.01 + 0.36) / 2))
    assert metrics.pop("pair_accuracy/slip") == 0.5
    assert metrics.pop("group_accuracy/slip") == 0.5
    assert metrics.pop("mae/skip") == metrics.pop("rmse/skip") == pytest.approx(0.1)
    assert metrics.pop("pair_accuracy/skip") == metrics.pop("group_accuracy/skip") == 1.0
    assert metrics == {}


def test_several_positives_have_all_to_be_above():
    traces = [
        trace(0, True, 0.9, 1),
        trace(0, True, 0.4, 1),
        trace(0, False, 0.3, 0),
        trace(0, False, 0.5, 0),
    ]
    metrics = rubric_metrics(traces, ())
    assert (metrics["pair_accuracy"], metrics["group_accuracy"]) == (0.75, 0.0)


def test_bins():
    scores = [0.0, 0.05, 0.1, 0.99, 1.0]
    bins = calibration([trace(0, True, score, total=0.5) for score in scores])
    assert [(b.low, b.high, b.count) for b in bins] == [(0.0, 0.1, 2), (0.1, 0.2, 1), (0.9, 1.0, 2)]
    assert [b.score for b in bins] == pytest.approx([0.025, 0.1, 0.995])
    assert calibration_error(bins) == pytest.approx((2 * 0.475 + 0.4 + 2 * 0.495) / 5)
    assert calibration_error(calibration([trace(0, True, 0.25, 0.25), trace(0, True, 0.75, 0.75)])) == 0.0


def test_the_plot_is_a_picture(tmp_path):
    out = plot_calibration(calibration(TRACES), tmp_path / "new" / "calibration.png")
    assert out.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    other = plot_calibration(calibration(TRACES[:2]), tmp_path / "other.png")
    assert other.read_bytes() != out.read_bytes()


def test_what_can_not_be_ranked_is_refused():
    with pytest.raises(ValueError, match=r"\[rubric_metrics\] traces: expected at least one"):
        rubric_metrics([], DIMENSIONS)
    with pytest.raises(ValueError, match=r"a positive and a negative in every group, got 1 and 0 in group 0"):
        rubric_metrics(TRACES[:1], DIMENSIONS)
