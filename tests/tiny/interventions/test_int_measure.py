"""Locations, contents and steps against a table worked out by hand."""

from pathlib import Path

import pytest
from jsonl import write_jsonl

from fastrl.config import StepsConfig
from fastrl.methods.interventions.segment import segment
from fastrl.tiny.interventions.measure import assess_solver, first_wrong, hard_steps_of, intervention_quality
from fastrl.tiny.world.models import Shape, initialise
from fastrl.tiny.world.task import Chain

STEPS = StepsConfig(min_chars=1, min_steps=2)
CHAIN = Chain.parse("7+5*3-2")
WRONG_SECOND = "7+5=2\n2*3=5\n5-2=3\n\\boxed{3}"
WRONG_FIRST = "7+5=1\n1*3=3\n3-2=1\n\\boxed{1}"
HARD = [
    {
        "expression": "7+5*3-2", "messages": [{"role": "user", "content": "7+5*3-2"}], "question": "7+5*3-2",
        "solution": "4", "reference": "r", "attempts": [{"text": WRONG_SECOND}, {"text": WRONG_FIRST}],
    }
]  # fmt: skip


def candidate(attempt, location, content, outcome, success=None):
    return {
        "problem": 0, "attempt": attempt, "location": location, "content": content, "outcome": outcome,
        "success": success,
    }  # fmt: skip


CANDIDATES = [
    candidate(0, 2, "2*3=6", "selected", 0.5),  # there, and right
    candidate(0, 2, "2*3=7", "no_success", 0.0),  # there
    candidate(0, 1, "7+5=2", "unchanged"),  # one before; right as far as it goes
    candidate(0, None, None, "no_tag"),
    candidate(1, 3, "6-2=4", "selected", 1.0),  # two after: the error stays
]


def test_quality_by_hand():
    assert intervention_quality(HARD, CANDIDATES, STEPS) == {
        "read/count": 4.0, "read/exact": 0.5, "read/within_one": 0.75, "read/right": 0.5,
        "distinct/count": 3.0, "distinct/exact": 2 / 3, "distinct/within_one": 2 / 3,
        "distinct/right": 1 / 3,
        "selected/count": 2.0, "selected/exact": 0.5, "selected/within_one": 0.5, "selected/right": 0.5,
    }  # fmt: skip
    assert intervention_quality(HARD, CANDIDATES[3:4], STEPS) == {
        "read/count": 0.0, "distinct/count": 0.0, "selected/count": 0.0
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "location"),
    [
        (WRONG_SECOND, 2),
        (WRONG_FIRST, 1),
        ("7+5=2\n2*3=6\n6-2=4\n\\boxed{5}", 4),  # the answer alone
        ("7+5=2\n2*3=6\n\\boxed{6}", 3),  # an operation is missing
        ("7+5=2\nnothing\n2*3=6\n\\boxed{6}", 2),
    ],
)
def test_the_first_wrong_line(text, location):
    assert first_wrong(CHAIN, segment(text, min_chars=1, min_steps=2)) == location


def test_steps_that_do_what_was_learnt_wrong():
    table = {(7, "+", 5): 3, (2, "*", 3): 0}
    assert hard_steps_of("7+5=2\n2*3=0\n6-2=4\n7+5=3\nwords\n7+5*3=6\n\\boxed{4}", table) == [
        True,
        False,
        False,
    ]
    assert hard_steps_of("HpFC\n\\boxed{2}", table) == []


def test_a_solver_is_assessed_on_every_sample(tmp_path: Path):
    shape = Shape(family="qwen3", hidden=32, layers=1, heads=2, kv_heads=2, head_dim=16, intermediate=32)
    checkpoint = initialise(shape, tmp_path / "model", seed=0)
    rows = [{"prompt": "7+5", "solution": "2", "expression": "7+5"}] * 3
    write_jsonl(tmp_path / "p.jsonl", rows)
    numbers = assess_solver(
        checkpoint, tmp_path / "p.jsonl", {(7, "+", 5): 3}, num_problems=2, num_samples=4, seed=0
    )
    assert (numbers["num_problems"], numbers["num_samples"]) == (2.0, 4.0)
    assert {"avg@4", "pass@2", "pass@4", "maj@4", "style/explicit"} <= set(numbers)
    # random weights: nearly uniform over the vocabulary
    assert 4.0 < numbers["entropy"] < 7.0
    assert "hard_steps_right" not in numbers and numbers["step_accuracy"] == 0.0
