"""Leaks of the answer: at token boundaries, by value, in boxes; and texts that are no leak."""

import re

import pytest
from places import SHARED_DATA

from fastrl.config import DataConfig
from fastrl.data import load_problems
from fastrl.methods.interventions.leak import leaks

IMO = SHARED_DATA / "imo_answerbench_v2.csv"


@pytest.mark.parametrize(
    "content, gold",
    [
        ("so x = 12.", "12"),
        ("12%", "12"),
        ("it is 12, then", "12"),
        ("the point (3,12)", "12"),
        ("from 5-12", "12"),
        ("$12$ and \\(12\\)", "12"),
        ("\\frac{12}{5} or 12", "12"),
        ("we get 1,200 now", "1200"),
        ("f = -12", "-12"),
        ("p is \\frac{1}{2}.", "1/2"),
        ("p is 2/4", "\\frac{1}{2}"),
        ("rate 0.5 here", "0.5"),
        ("that is 2 \\sqrt{ 3 }", "2\\sqrt{3}"),
        ("so x+1 is it", "x + 1"),
        ("the pair (1, 2)", "(1,2)"),
        ("\\boxed{24/2}", "12"),
        ("\\boxed{A}", "A"),
        ("\\boxed {A}", "A"),
        ("Answer: A", "A"),
        ("<answer>east</answer>", "East"),
        ("The result: 42", "42"),
        ("La réponse est \\boxed {x=2}.", "2"),
        ("so every odd $n$ will do", "odd $n$"),
        ("$x=2$, where $y = 1$.", "x = 2, where $y=1$"),
    ],
)
def test_a_planted_leak_is_found(content, gold):
    assert leaks(content, gold)


@pytest.mark.parametrize(
    "content, gold",
    [
        ("312 and 123", "12"),
        ("12.5 or 0.12", "12"),
        ("1/12 and 12/5", "12"),
        ("\\frac{1}{12} + \\frac{12}{5}", "12"),
        ("12,000", "12"),
        ("-12", "12"),
        ("12x + 5", "12"),
        ("x^12 + y^{12} + a_{12} + b_12", "12"),
        ("3\\sqrt{2}", "\\sqrt{2}"),
        ("x+12", "x+1"),
        ("xyz", "xy"),
        ("A man", "A"),
        ("an odd $number$", "odd $n$"),
        ("\\boxed{13}", "12"),
        ("", "12"),
    ],
)
def test_what_merely_holds_its_letters_is_none(content, gold):
    assert not leaks(content, gold)


@pytest.mark.skipif(not IMO.is_file(), reason=f"no benchmark file {IMO}")
def test_answers_of_a_real_benchmark_planted_and_inside_other_numbers():
    golds = [problem.solution for problem in load_problems(DataConfig(path=str(IMO)))]
    for form in ("Hence we get {}.", "so {} follows from it", "\\boxed{{{}}}"):
        assert [gold for gold in golds if not leaks(form.format(gold), gold)] == []
    integers = [match[0] for gold in golds if (match := re.fullmatch(r"[1-9][0-9]*", gold.strip("$.")))]
    assert len(integers) > 200
    for form in ("1{}7", "{}0", "{}.5", "{}/1000", "-{}", "{}n", "x_{{{}}}", "a^{}"):
        assert [gold for gold in integers if leaks(f"we have {form.format(gold)} of them", gold)] == []
