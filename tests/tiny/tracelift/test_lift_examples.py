"""Training examples of planner and executors, and judged traces, against the exact checker."""

from collections import Counter
from random import Random

import pytest

from fastrl.methods.tracelift.rubric_dimensions import DIMENSIONS
from fastrl.methods.tracelift.trace_groups import to_row
from fastrl.tiny.tracelift.config import LiftConfig
from fastrl.tiny.tracelift.examples import SHOWN, executor_row, planner_row, seed_row, shown_trace
from fastrl.tiny.tracelift.judge import last_value
from fastrl.tiny.tracelift.perturb import CODE, MATH
from fastrl.tiny.world.check import check_trace
from fastrl.tiny.world.task import Chain, ChainConfig, draw_chains
from fastrl.types import Task

CONFIG = LiftConfig()
CHAINS = draw_chains(ChainConfig(), 600, seed=1, split="train")


def within(share, count, rate):
    """Binomial: four standard deviations."""
    return abs(share - rate) < 4 * (rate * (1 - rate) / count) ** 0.5


def test_planner_examples_are_traces_without_an_answer():
    random = Random(0)
    styles, code, right = Counter(), 0, 0
    for chain in CHAINS:
        row = planner_row(CONFIG, chain, random)
        code += row["prompt"] == f"x*({chain.expression})"
        assert row["prompt"] in (chain.expression, f"x*({chain.expression})")
        assert "boxed" not in row["completion"] and not row["completion"].endswith("\n")
        styles[check_trace(chain, row["completion"]).style] += 1
        right += last_value(chain, row["completion"]) == chain.answer
    assert within(code / 600, 600, CONFIG.code_share)
    for style, share in zip(("explicit", "leap", "private"), (0.4, 0.2, 0.4), strict=True):
        assert within(styles[style] / 600, 600, share)
    assert 0.65 < right / 600 < 0.9


def test_executor_examples_have_the_true_answer_and_no_private_letters():
    random = Random(0)
    alone, code = 0, 0
    for chain in CHAINS:
        row = executor_row(CONFIG, chain, random)
        question, _, trace = row["prompt"].partition("\n")
        if question == chain.expression:
            assert row["completion"] == str(chain.answer)
        else:
            code += 1
            assert question == f"x*({chain.expression})"
            assert row["completion"] == f"print(int(input())*{chain.answer}%10)"
        alone += trace == ""
        assert trace == "" or check_trace(chain, trace).legible
    assert within(alone / 600, 600, CONFIG.executor_shares[0])
    assert within(code / 600, 600, CONFIG.code_share)


def test_shown_traces():
    chain = Chain.parse("7+5*3-2")
    assert shown_trace(chain, "none", Random(0)) is None
    assert shown_trace(chain, "explicit", Random(0)) == "7+5=2\n2*3=6\n6-2=4"
    assert shown_trace(chain, "leap", Random(0)) == "7+5*3=6\n6-2=4"
    drawn = {shown: {shown_trace(chain, shown, Random(seed)) for seed in range(60)} for shown in SHOWN[3:]}
    assert drawn["partial"] == {"7+5=2", "7+5=2\n2*3=6"}
    assert all(len(check_trace(chain, trace).faults) == 1 for trace in drawn["flawed"])
    assert len(drawn["flawed"]) > 20


@pytest.mark.parametrize("task", ["math", "code"])
def test_seed_rows(task: Task):
    random = Random(0)
    kinds = Counter()
    for chain in CHAINS[:200]:
        row = seed_row(CONFIG, task, chain, random)
        explicit = row["positive"]["text"]
        assert check_trace(chain, explicit).faults == () and last_value(chain, explicit) == chain.answer
        assert row["positive"]["total"] == 1 and row["positive"]["label"] == "strong"
        if task == "math":
            assert row["reference_solution"] == f"{explicit}\n\\boxed{{{chain.answer}}}"
            assert row["solution"] == str(chain.answer)
        else:
            assert row["reference_solution"] == row["solution"] == f"print(int(input())*{chain.answer}%10)"
            assert len(row["tests"]) == CONFIG.num_tests
        own = [each["negative_kind"] for each in row["candidates"]]
        assert len(own) == len(set(own)) and len(own) >= CONFIG.num_perturbed + 2
        kinds.update(own)
        for each in row["candidates"]:
            start, end = each["place"]
            assert 0 <= start <= end <= len(each["text"])
            assert set(each["scores"]) == set(DIMENSIONS[task])
            assert each["text"] != explicit and each["total"] <= 0.8
    assert set(kinds) == {
        *(MATH if task == "math" else CODE),
        "private",
        "private_slip",
        "leap",
        "leap_slip",
        "slips",
    }
    assert min(kinds.values()) > 40


def test_a_flaw_in_work_is_what_the_checker_finds():
    random = Random(1)
    for chain in CHAINS[:100]:
        for each in seed_row(CONFIG, "math", chain, random)["candidates"]:
            report = check_trace(chain, each["text"])
            if each["negative_kind"] in ("private", "leap"):
                assert report.faults == () and report.style == each["negative_kind"]
            if each["negative_kind"] in ("private_slip", "leap_slip", "slips"):
                assert {fault for _, fault in report.faults} == {"result"}
                assert each["scores"]["calculation_correctness"] == 1


def test_judged_rows_have_the_fields_of_groups():
    """The judged traces have the fields of fastrl.methods.tracelift.trace_groups.Trace."""
    from fastrl.methods.tracelift.trace_groups import Group, Trace

    row = seed_row(CONFIG, "math", CHAINS[0], Random(0))
    traces = [Trace(**each) for each in (row["positive"], *row["candidates"])]
    group = Group(
        problem_id="0", task="math", problem=row["prompt"], reference_solution=row["reference_solution"],
        answer=row["solution"], positive_pool=(traces[0],), negative_bank=tuple(traces[1:]),
    )  # fmt: skip
    assert to_row(group)["negative_bank"][0]["text"] == row["candidates"][0]["text"]
