"""300 benchmark-like pairs: right answers are rewarded, wrong ones are not."""

import json
from collections import Counter
from pathlib import Path

import pytest

from fastrl.grading import AnswerGrader, Verdict

PAIRS = [
    json.loads(line)
    for line in Path(__file__).with_name("pairs.jsonl").read_text(encoding="utf-8").splitlines()
]


def test_half_are_right():
    assert Counter(pair["right"] for pair in PAIRS) == {True: 150, False: 150}


@pytest.mark.parametrize("level", ["strict", "lenient"])
def test_every_pair_is_graded_as_it_was_reviewed(level):
    with AnswerGrader(num_workers=1, timeout_s=60.0, level=level) as grader:
        verdicts = grader.grade([(pair["completion"], pair["gold"]) for pair in PAIRS])
    wrong = [
        (pair, verdict.value)
        for pair, verdict in zip(PAIRS, verdicts, strict=True)
        if (verdict is Verdict.CORRECT) != pair["right"]
    ]
    assert wrong == []
