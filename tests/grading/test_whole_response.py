"""Whole responses: math-verify on the whole text, as the weak-supervision paper grades."""

import pytest
from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

from fastrl.grading import AnswerGrader, Verdict

TEXTS = [
    ("so it is 7", "7"),
    ("so it is $\\frac{1}{2}$", "0.5"),
    ("\\boxed{7} and then 8", "7"),
    ("\\boxed{7}, the final answer is $8$", "8"),
    ("the final answer is $8$, \\boxed{7}", "7"),
    ("<think>\\boxed{5}</think> it is 6", "5"),
    ("$(1,2)$", "(1,2)"),
    ("x = 3 or 4", "3"),
    ("12 apples", "12"),
    ("nothing at all", "7"),
    ("", "7"),
]


def as_the_authors(text: str, gold: str) -> bool:
    stated = parse(text, (ExprExtractionConfig(), LatexExtractionConfig()), parsing_timeout=None)
    right = parse(f"\\boxed{{{gold}}}", (LatexExtractionConfig(),), parsing_timeout=None)
    return bool(verify(right, stated, timeout_seconds=None))


@pytest.fixture(scope="module")
def whole():
    with AnswerGrader(num_workers=1, timeout_s=60.0, extraction="whole_response") as grader:
        yield grader


def test_verdicts_are_only_those_of_math_verify(whole):
    verdicts = whole.grade(TEXTS)
    assert [verdict is Verdict.CORRECT for verdict in verdicts] == [as_the_authors(*pair) for pair in TEXTS]
    assert verdicts[0] is Verdict.CORRECT and verdicts[-1] is Verdict.NO_ANSWER
    assert set(verdicts) == {Verdict.CORRECT, Verdict.WRONG, Verdict.NO_ANSWER}


def test_votes_are_of_the_answers_that_are_stated(whole):
    assert whole.stated("so it is 7") is None
    assert whole.stated("so \\boxed{\\dfrac12}") == "\\frac{1}{2}"
    assert whole.votes(["0.5", "\\frac{1}{2}", "1"]) == {"0.5": 2, "1": 1}
