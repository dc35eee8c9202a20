"""Gold answers of the real benchmark files equal themselves and no other answer."""

import pytest
from places import SHARED_DATA

from bench.check_answers import self_check
from fastrl.config import DataConfig
from fastrl.data import load_problems
from fastrl.grading import AnswerGrader, Verdict

REAL = SHARED_DATA

# every so manyth answer: `python -m bench.check_answers` grades them all
STRIDES = {
    "math500.parquet": 10,
    "gsm8k_test.jsonl": 1,
    "amc23.jsonl": 1,
    "aime24.jsonl": 1,
    "imo_answerbench_v2.csv": 10,
}


@pytest.fixture(scope="module")
def grader():
    with AnswerGrader(num_workers=2, timeout_s=5.0) as shared:
        yield shared


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no benchmark files in {REAL}")
@pytest.mark.parametrize("name", STRIDES)
def test_real_gold_answers(grader, name):
    problems = load_problems(DataConfig(path=str(REAL / name)))[:: STRIDES[name]]
    check = self_check(grader, [problem.solution for problem in problems])
    print(f"{name}: {check}")
    assert check.against_self == {Verdict.CORRECT: len(problems)}
    assert check.against_other[Verdict.CORRECT] == 0
    assert check.against_other.total() == len(problems)


def test_others_differ_in_value_not_in_writing(grader):
    check = self_check(grader, ["5", "x=5", "$5$.", "7"])
    assert check.against_self == {Verdict.CORRECT: 4}
    assert check.against_other == {Verdict.WRONG: 4}
