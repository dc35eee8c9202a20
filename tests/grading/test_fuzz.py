"""Generated answers: no crash and no hang in this process, verdicts reflexive and symmetric."""

import random
from itertools import pairwise

import pytest

from bench.fuzz_grader import AROUND, answers
from fastrl.grading import answer_start, exact_verdict, find_answer


@pytest.mark.parametrize("seed", range(5))
def test_generated_answers(seed):
    draw, given = random.Random(seed), answers(100, seed)
    for one, other in pairwise(given):
        assert exact_verdict(one, one) is True
        assert exact_verdict(one, other) is exact_verdict(other, one)
        text = draw.choice(AROUND).format(one)
        for extraction in ("boxed", "phrase", "last_number"):
            for level in ("strict", "lenient"):
                found = find_answer(text, extraction, level)
                assert found is None or text[found.start :]
        answer_start(text)


@pytest.mark.parametrize(
    "text",
    [
        "1,000" + ",000" * 1500,
        "\\pm" * 600,
        "(" * 1900,
        "\\{" * 900,
        "1," * 990,
        "\\frac{" * 300,
        "^" * 1900,
        "a or " * 390,
        "{{1,2},{3,4}}," * 140,
        "x=" * 900,
        "9" * 1999,
        "10^{" * 400,
        "|" * 1900,
        "\\text{" * 300 + "}" * 300,
        "1:" * 900,
        "-" * 1900,
        "\ud800",
    ],
)
def test_degenerate_answers_are_read_at_once(text):
    assert exact_verdict(text, text) is True
    assert exact_verdict(text, "5") is exact_verdict("5", text)
    assert exact_verdict(text, text[:-1]) is exact_verdict(text[:-1], text)
