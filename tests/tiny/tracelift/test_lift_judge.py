"""Rubric scores by hand; every kind lowers one dimension, and every dimension has a kind."""

from random import Random

import pytest

from fastrl.methods.tracelift.rubric_dimensions import DIMENSIONS, level_of
from fastrl.tiny.tracelift.judge import dimension, hurt_by, hurt_in, judged, last_value
from fastrl.tiny.tracelift.perturb import CODE, MATH, perturb, places
from fastrl.tiny.world.task import Chain, ChainConfig, draw_chains

CHAIN = Chain.parse("7+5*3-2")  # 7+5=2, 2*3=6, 6-2=4
CHAINS = draw_chains(ChainConfig(), 60, seed=4, split="train")
KINDS = {"math": MATH, "code": CODE}


@pytest.mark.parametrize("task", ["math", "code"])
def test_every_dimension_has_kinds(task):
    hurt = [dimension(task, kind) for kind in KINDS[task]]
    assert set(hurt) == set(DIMENSIONS[task])


@pytest.mark.parametrize("task", ["math", "code"])
def test_a_flaw_hurts_its_dimension_and_at_most_support(task):
    for chain in CHAINS:
        for kind in KINDS[task]:
            step = places(chain, kind)[-1]
            flawed = perturb(chain, kind, step, Random(step))
            low = hurt_by(task, chain, flawed)
            row = judged(task, flawed.text, low)
            assert low.pop(dimension(task, kind)) == 1
            astray = last_value(chain, flawed.text) != chain.answer
            support = "answer_support" if task == "math" else "action_support"
            expected = {support: 4.0} if astray and dimension(task, kind) != support else {}
            assert low == expected
            assert row["label"] in ("weak", "bad") and row["total"] <= 0.46


@pytest.mark.parametrize(
    "text, task, low, total",
    [
        ("7+5=2\n2*3=6\n6-2=4", "math", {}, 1.0),
        ("7+5*3=6\n6-2=4", "math", {"step_coherence": 4}, 0.64),  # (44 / 5 + 4) / 20
        ("HpFCtDGmCE", "math", {"step_coherence": 3, "answer_support": 1}, 0.39),  # (34 / 5 + 1) / 20
        ("HpFCtDGmCF", "math", {"step_coherence": 3, "answer_support": 1, "calculation_correctness": 1}, 0.3),
        ("7+5=3\n3*3=9\n9-2=7", "math", {"calculation_correctness": 1, "answer_support": 4}, 0.4),
        ("7+5=3\n3*3=9\n9-2=7", "code", {"action_support": 1}, 0.46),
        ("7+5=2\n2+3=5\n5-2=3", "code", {"plan_quality": 1, "action_support": 4}, 0.4),
        ("7+6=3\n2*3=6\n6-2=4", "code", {"task_understanding": 1, "step_coherence": 1}, 0.37),
        ("", "math", {"step_coherence": 3, "answer_support": 1}, 0.39),
    ],
)
def test_work_by_hand(text, task, low, total):
    assert hurt_in(task, CHAIN, text) == low
    row = judged(task, text, low)
    assert row["scores"] == dict.fromkeys(DIMENSIONS[task], 10) | low
    assert row["total"] == pytest.approx(total, abs=1e-12)


def test_a_right_leap_can_become_a_negative():
    """Weak, and two levels down where it is worse than the reference: the builder keeps such traces."""
    text = "7+5*3=6\n6-2=4"
    row = judged("math", text, hurt_in("math", CHAIN, text))
    assert row["label"] == "weak" and level_of(10) - level_of(row["scores"]["step_coherence"]) == 2


@pytest.mark.parametrize(
    "text, value",
    [
        ("7+5=2\n2*3=6", 6),
        ("HpFCtDG", 6),
        ("7+5=2\nand so on", 2),
        ("7+5=2\n\\boxed{4}", 2),
        ("so", None),
        ("", None),
    ],
)
def test_last_value(text, value):
    assert last_value(CHAIN, text) == value
