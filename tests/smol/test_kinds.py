"""Exercises: worked answers by hand, every kind's answers by other means, rows as the stages read them."""

import re
from random import Random

import pytest
from jsonl import write_jsonl

from fastrl.config import DataConfig
from fastrl.data import load_problems
from fastrl.smol.exercise import REQUEST, Exercise, problem_row, work, worked_row
from fastrl.smol.kinds import KINDS, write_formula
from fastrl.smol.rewards import solves


def exercises(kind, count=300):
    random = Random(5)
    return [KINDS[kind](random) for _ in range(count)]


def test_a_trace_by_hand():
    # 4 - 1 = 3; 3 + 7 = 10; 10 * 2 = 20
    exercise = Exercise(question="How many?", start=4, terms=(("-", 1), ("+", 7), ("*", 2)))
    assert work(4, exercise.terms) == [4, 3, 10, 20]
    assert exercise.trace == "4 - 1 = 3\n3 + 7 = 10\n10 * 2 = 20\nThe answer is \\boxed{20}."
    assert problem_row(exercise) == {"prompt": f"How many? {REQUEST}", "solution": "20"}
    assert worked_row(exercise) == {"prompt": f"How many? {REQUEST}", "completion": exercise.trace}


@pytest.mark.parametrize(
    "terms, formula",
    [
        ((("+", 5), ("*", 2)), "(3 + 5) * 2"),
        ((("*", 5), ("-", 2)), "3 * 5 - 2"),
        ((("*", 5), ("*", 2), ("-", 1), ("*", 4)), "(3 * 5 * 2 - 1) * 4"),
    ],
)
def test_formulas_by_hand(terms, formula):
    assert write_formula(3, terms) == formula


def test_a_chain_is_what_its_question_asks():
    for exercise in exercises("chains"):
        asked = re.fullmatch(r"What is ([1-9](?: [+-] [1-9]){2,4})\?", exercise.question)
        assert asked and str(eval(asked[1])) == exercise.answer


def test_a_countdown_can_be_solved_as_its_trace_does():
    for exercise in exercises("countdown"):
        numbers, target = exercise.columns["numbers"], exercise.columns["target"]
        assert solves(exercise.answer, numbers, target) and 0 < target < 100
        assert sorted(map(int, re.findall(r"\d+", exercise.question))) == sorted([*numbers, target])


def test_a_story_is_told_in_the_order_of_its_steps():
    for exercise in exercises("stories"):
        owned = None
        for sentence in exercise.question.split(". ")[:-1]:
            numbers = [int(found) for found in re.findall(r"\d+", sentence)]
            if owned is None:
                owned = numbers[0] * numbers[1] if "boxes" in sentence else numbers[0]
            elif re.search("more", sentence):
                owned += numbers[0]
            else:
                owned -= numbers[0]
        assert owned is not None and owned >= 0 and str(owned) == exercise.answer
        assert 1 <= len(exercise.terms) <= 2


@pytest.mark.parametrize("kind", KINDS)
def test_the_stages_read_the_rows(kind, tmp_path):
    drawn = exercises(kind, 3)
    path = write_jsonl(tmp_path / "rows.jsonl", map(problem_row, drawn))
    for problem, exercise in zip(load_problems(DataConfig(path=path)), drawn, strict=True):
        assert problem.messages == [{"role": "user", "content": exercise.prompt}]
        assert problem.solution == exercise.answer
        assert exercise.columns.items() <= problem.columns.items()
