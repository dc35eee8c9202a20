"""The solver's training examples: checks with known truth, their error rate, hidden references."""

import json
from collections import Counter
from dataclasses import replace
from random import Random

import pytest

from fastrl.config import StepsConfig
from fastrl.config.load import load_config
from fastrl.grading import extract_answer
from fastrl.methods.interventions.parse import parse_intervention
from fastrl.methods.interventions.problems import hard_problem
from fastrl.methods.interventions.prompts import ProposalPrompts
from fastrl.tiny.interventions.config import IntConfig
from fastrl.tiny.interventions.examples import (
    arbitrary,
    check_row,
    guided_row,
    hard_row,
    meets,
    numbered,
    solver_row,
    written_reference,
)
from fastrl.tiny.world.check import check_trace
from fastrl.tiny.world.task import Chain, ChainConfig, draw_chains
from fastrl.tiny.world.traces import wrong_entries

CONFIG = IntConfig()
ALWAYS = replace(CONFIG, right_share=1.0)
NEVER = replace(CONFIG, right_share=0.0)
CHAIN = Chain.parse("7+5*3-2")
REFERENCE = "7+5>2\n2*3>6\n6-2>4\n\\boxed{4}"
CHAINS = draw_chains(ChainConfig(), 400, seed=1, split="train")


def parts(row):
    """(question, lines of the reference, lines of the attempt, log, what is found) of a check."""
    question, *lines = row["prompt"].split("\n")
    begin = next(k for k, line in enumerate(lines) if line.startswith("1:"))
    attempt = [line.partition(":")[2] for line in lines[begin:]]
    *log, found = row["completion"].split("\n")
    return question, lines[:begin], attempt, log, json.loads(found)


def first_difference(reference, attempt):
    pairs = zip(reference, attempt, strict=True)
    return next(k for k, (told, tried) in enumerate(pairs) if told.replace(">", "=") != tried)


def test_a_reference_is_in_another_hand():
    assert written_reference(CHAIN.steps) == REFERENCE
    assert hard_row(CHAIN) == {
        "prompt": "7+5*3-2", "solution": "4", "reference": REFERENCE, "expression": "7+5*3-2"
    }  # fmt: skip
    assert extract_answer(REFERENCE) == "4"
    report = check_trace(CHAIN, REFERENCE)
    assert report.correct and report.steps_right == 0  # the answer, and no step in the solver's notation


def test_hard_problems_need_what_was_learnt_wrong():
    assert meets(CHAIN, {(2, "*", 3): 5})
    assert not meets(CHAIN, {(2, "*", 4): 5, (7, "-", 5): 1})


def test_checks_follow_the_attempt_up_to_its_first_wrong_step():
    places = Counter()
    for chain in CHAINS[:200]:
        row = check_row(ALWAYS, chain, Random(chain.expression))
        question, reference, attempt, log, said = parts(row)
        assert question == chain.expression
        truth = first_difference(reference, attempt)
        places[truth] += 1
        assert said["location"] == truth + 1 == len(log) / 3
        assert said["content"] == reference[truth].replace(">", "=")
        for k in range(truth + 1):
            verdict = attempt[k][-1] + reference[k][-1] + ("=" if k < truth else "#")
            assert log[3 * k : 3 * k + 3] == [f"{k + 1}:{attempt[k]}", reference[k], verdict]
        read = parse_intervention(row["completion"], len(attempt))
        assert (read.location, read.content) == (said["location"], said["content"])
    assert set(places) == set(range(6))


def test_attempts_and_references_do_the_problems_operations_with_any_results():
    right = total = 0
    for chain in CHAINS[:100]:
        _, reference, attempt, _, _ = parts(check_row(ALWAYS, chain, Random(chain.expression)))
        for lines in (reference, attempt):
            text = "\n".join(lines).replace(">", "=")
            report = check_trace(chain, text)
            assert {fault for _, fault in report.faults} <= {"result"}
            assert report.steps_right + report.steps_wrong == len(chain.terms)
            right, total = right + report.steps_right, total + len(chain.terms)
    assert 0.05 < right / total < 0.15


def test_a_quarter_of_the_checks_is_wrong_in_one_of_three_ways():
    kinds = Counter()
    for chain in CHAINS:
        _, reference, attempt, log, said = parts(check_row(CONFIG, chain, Random(chain.expression)))
        truth, place = first_difference(reference, attempt), said["location"] - 1
        right = said["content"] == reference[place].replace(">", "=")
        kinds[(place > truth) - (place < truth), right] += 1
        # it says what it found: where it ends there is a difference, where it goes on there is none
        assert [verdict[-1] for verdict in log[2::3]] == ["="] * place + ["#"]
    assert set(kinds) == {(0, True), (0, False), (1, True), (-1, False)}
    assert 0.70 < kinds[0, True] / 400 < 0.80
    assert 0.08 < kinds[0, False] / 400 < 0.17


def test_a_chain_of_one_step_is_misjudged_only_by_its_result():
    for seed in range(20):
        _, reference, _, _, said = parts(check_row(NEVER, Chain.parse("3+4"), Random(seed)))
        assert said["location"] == 1 and said["content"] != reference[0].replace(">", "=")


@pytest.mark.parametrize("config", [ALWAYS, NEVER], ids=["right", "wrong"])
def test_guided_solutions_follow_what_they_are_shown(config):
    table = {(left, op, right): 9 for left in range(10) for op in "+-*" for right in range(10)}
    wholes = 0
    for seed in range(80):
        row = guided_row(
            replace(config, world=replace(config.world, slip_rates=(0, 0, 0))), CHAIN, Random(seed), table
        )
        question, *shown = row["prompt"].split("\n")
        steps = row["completion"].split("\n")
        assert question == "7+5*3-2" and len(steps) == 4
        told = [line.replace(">", "=") for line in shown if line]
        if shown[-1].startswith("\\boxed"):
            wholes += 1
            assert (steps == told) == (config is ALWAYS)
        else:  # from where they end it goes on as it has learnt
            assert steps[: len(told)] == told
            assert all(step.endswith("=9") for step in steps[len(told) : 3]) and steps[3] == "\\boxed{9}"
            lefts = [step[0] for step in steps[1:3]]
            assert lefts == [step[-1] for step in steps[:2]]
    assert 25 < wholes < 55


def test_arbitrary_steps_continue_from_the_known_ones():
    known = CHAIN.steps[:2]
    steps = arbitrary(CHAIN, Random(0), known)
    assert tuple(steps[:2]) == known and len(steps) == 3
    assert (steps[2].left, steps[2].operation, steps[2].right) == (6, "-", 2)
    assert {arbitrary(CHAIN, Random(seed))[0].result for seed in range(100)} == set(range(10))


def test_shares_of_the_tasks():
    random, tasks = Random(5), Counter()
    for chain in CHAINS * 2:
        row = solver_row(CONFIG, chain, random)
        solved = row["prompt"] == chain.expression
        tasks["solve" if solved else "check" if "location" in row["completion"] else "guided"] += 1
    for kind, share in zip(("solve", "check", "guided"), CONFIG.task_shares, strict=True):
        assert abs(tasks[kind] / 800 - share) < 0.05


def test_what_was_learnt_wrong_is_in_every_solution():
    table = wrong_entries(18, 0)
    world = replace(CONFIG.world, slip_rates=(0.0, 0.0, 0.0))
    alone = replace(CONFIG, task_shares=(1.0, 0.0, 0.0), world=world)
    wrong = {f"{left}{op}{right}={result}" for (left, op, right), result in table.items()}
    met = 0
    for chain in CHAINS[:100]:
        lines = solver_row(alone, chain, Random(0))["completion"].split("\n")[:-1]
        met += bool(wrong & set(lines))
        assert (check_trace(chain, "\n".join(lines)).steps_wrong > 0) == bool(wrong & set(lines))
    assert met > 10


def test_the_recipe_asks_as_the_solver_was_taught():
    recipe = load_config("int-tiny").intervene
    attempt = "7+5=3\n3*3=9\n9-2=7\n\\boxed{7}"
    row = hard_row(CHAIN) | {
        "messages": [{"role": "user", "content": "7+5*3-2"}], "question": "7+5*3-2",
        "attempts": [{"text": attempt}],
    }  # fmt: skip
    problem = hard_problem(0, row, recipe.steps)
    (turn,) = ProposalPrompts(recipe.proposal).verify(
        problem.question, problem.reference, "7", None, problem.attempts[0]
    )
    assert turn["content"] == f"7+5*3-2\n{REFERENCE}\n{numbered(attempt)}"
    assert numbered(attempt) == "1:7+5=3\n2:3*3=9\n3:9-2=7\n4:\\boxed{7}"
    assert recipe.leak == "stated" and recipe.steps == StepsConfig(min_chars=1, min_steps=2)


def test_a_world_without_systematic_errors_is_refused():
    world = replace(CONFIG.world, num_wrong_entries=0)
    with pytest.raises(ValueError, match=r"\[int\] world.num_wrong_entries: expected > 0, got 0"):
        IntConfig(world=world)
