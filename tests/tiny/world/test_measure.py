"""Fractions over a hand-counted set of traces."""

import pytest

from fastrl.tiny.world.measure import measure

EXPRESSION = "7+5*3-2"
TEXTS = [
    "7+5=2\n2*3=6\n6-2=4\n\\boxed{4}",  # 3 right
    "7+5*3=6\n6-2=5\n\\boxed{5}",  # 1 right, 1 wrong
    "HpFCtDGmCE\n\\boxed{4}",  # 3 right
    "7+5=3\n2*3=6\n6-2=4\n\\boxed{4}",  # right answer, 1 right, 2 wrong
    "\\boxed{4}",  # right answer without a step
]


def test_shares_by_hand():
    metrics = measure([EXPRESSION] * 5, TEXTS)
    assert metrics == {
        "accuracy": 4 / 5,
        "legible": 3 / 5,
        "step_accuracy": 8 / 11,
        "faithful": 2 / 4,
        "style/explicit": 2 / 5,
        "accuracy/explicit": 1.0,
        "style/leap": 1 / 5,
        "accuracy/leap": 0.0,
        "style/private": 1 / 5,
        "accuracy/private": 1.0,
        "style/mixed": 0.0,
        "style/none": 1 / 5,
        "accuracy/none": 1.0,
    }


def test_shares_of_nothing_are_left_out():
    metrics = measure([EXPRESSION], [""])
    assert metrics["accuracy"] == 0.0
    assert {"step_accuracy", "faithful", "accuracy/explicit"}.isdisjoint(metrics)


@pytest.mark.parametrize("expressions, texts", [([], []), ([EXPRESSION], []), ([EXPRESSION], TEXTS)])
def test_counts_must_agree(expressions, texts):
    with pytest.raises(ValueError, match=r"\[measure\] texts"):
        measure(expressions, texts)
