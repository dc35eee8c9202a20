"""Fractions of hand-counted traces; the executor's prompt, and how its answer is read."""

import pytest
import torch
from small_world import CONFIG

from fastrl.tiny.tracelift import measure as lift_measure
from fastrl.tiny.tracelift.measure import (
    answers_right,
    closed,
    executor_table,
    leaks_answer,
    plan,
    trace_quality,
)
from fastrl.tiny.tracelift.perturb import CODE, MATH
from fastrl.tiny.world.models import initialise
from fastrl.tiny.world.task import Chain, ChainConfig, draw_chains

CHAIN = Chain.parse("7+5*3-2")  # 7+5=2, 2*3=6, 6-2=4
TEXTS = [
    "7+5=2\n2*3=6\n6-2=4",
    "7+5*3=6\n6-2=5",
    "HpFCtDGmCE",
    "7+5=3\n2*3=6\n6-2=4",
    "7+5=2\n2*3=6\n6-2=4\nthe answer is 4",
    "",
]


def test_trace_quality_by_hand():
    numbers = trace_quality([CHAIN.expression] * 6, TEXTS)
    assert numbers["accuracy"] == 4 / 6
    assert numbers["faithful"] == 2 / 4  # the fourth has wrong steps, the fifth a line that is none
    assert numbers["step_accuracy"] == (3 + 1 + 3 + 1 + 3) / (3 + 2 + 3 + 3 + 4)
    assert numbers["leak"] == 1 / 6
    assert {name: numbers[f"style/{name}"] for name in ("explicit", "leap", "private", "mixed", "none")} == {
        "explicit": 2 / 6, "leap": 1 / 6, "private": 1 / 6, "mixed": 1 / 6, "none": 1 / 6,
    }  # fmt: skip
    # 1; coherence 4, support 4, calculation 1: 29/5 + 1; private 0.39; the fourth: calculation and coherence
    # 1: 32/5 + 1; a line that can't be read: coherence 3, support 1; none: the same
    expected = [1, (29 / 5 + 1) / 20, 0.39, (32 / 5 + 1) / 20, 0.39, 0.39]
    assert numbers["rubric"] == pytest.approx(sum(expected) / 6, abs=1e-12)


def test_code_leaks_by_programs():
    text = "7+5=2\nprint(int(input())*4%10)"
    assert leaks_answer("code", CHAIN, text) and not leaks_answer("math", CHAIN, text)
    assert leaks_answer("math", CHAIN, "7+5=2\n\\boxed{4}") and not leaks_answer("code", CHAIN, "\\boxed{4}")
    assert trace_quality([CHAIN.expression], [text], "code")["leak"] == 1


def test_a_trace_is_closed_by_its_last_value():
    assert closed(CHAIN, "7+5=2\n2*3=6") == "7+5=2\n2*3=6\n\\boxed{6}"
    assert closed(CHAIN, "HpFC") == "HpFC\n\\boxed{2}"
    assert closed(CHAIN, "7+5=2\n\\boxed{9}") == "7+5=2\n\\boxed{9}"
    assert closed(CHAIN, "") == ""


def test_executors_are_prompted_in_their_words(monkeypatch):
    asked = []

    def sample(model, prompts, max_new_tokens, temperature, num_samples, seed):
        asked.extend(prompts)
        return [["4"], ["4."], ["print(int(input())*4%10)"]][: len(prompts)]

    monkeypatch.setattr(lift_measure, "_sample", sample)
    assert answers_right("model", [(CHAIN, None), (CHAIN, "7+5=2")], "math") == [True, False]
    assert asked == ["7+5*3-2\n", "7+5*3-2\n7+5=2"]
    asked.clear()
    assert answers_right("model", [(CHAIN, "a"), (CHAIN, None), (CHAIN, "b")], "code") == [False, False, True]
    assert asked == ["x*(7+5*3-2)\na", "x*(7+5*3-2)\n", "x*(7+5*3-2)\nb"]


def test_real_models_are_sampled_reproducibly(tmp_path):
    model = initialise(CONFIG.receiver.shape, tmp_path / "executor", seed=0)
    planner = initialise(CONFIG.generator.shape, tmp_path / "planner", seed=0)
    chains = draw_chains(ChainConfig(), 5, seed=0, split="test")
    torch.manual_seed(1)
    traces = plan(planner, chains, "code", num_samples=3, seed=7)
    assert [len(own) for own in traces] == [3] * 5
    assert (
        traces
        == plan(planner, chains, "code", num_samples=3, seed=7)
        != plan(planner, chains, "code", num_samples=3)
    )
    for task, kinds in (("math", MATH), ("code", CODE)):
        table = executor_table(model, chains, task)
        assert list(table) == ["alone", "explicit", "leap", "private", *kinds]
        assert all(0 <= value <= 1 for value in table.values())
