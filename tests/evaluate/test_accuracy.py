"""evaluate: hand-counted metrics over a scripted engine, and seeds over a real one."""

import pytest
import torch
from jsonl import read_jsonl
from scripted import ScriptedEngine

from fastrl.data import Problem
from fastrl.engine.tree.engine import TorchEngine
from fastrl.evaluate.accuracy import evaluate
from fastrl.grading import AnswerGrader, Verdict
from fastrl.types import SamplingParams

SAMPLING = SamplingParams(max_new_tokens=40)
# What each problem's four samples say. Gold answers: 1/2, 7, 3.
SAYS = {
    "first": [r"\boxed{1/2}", r"\boxed{\frac{1}{2}}", r"\boxed{2}", r"\boxed{2}"],
    "second": [r"so \boxed{7}", "no idea", r"\boxed{8}", None],
    "third": [r"\boxed{4}", r"\boxed{5}", r"\boxed{4}", r"\boxed{ 4 }"],
}
GOLD = {"first": "0.5", "second": "7", "third": "3"}


def problems(names=tuple(SAYS)):
    rows = list(SAYS)
    return [
        Problem(index=rows.index(name), messages=[{"role": "user", "content": name}], solution=GOLD[name])
        for name in names
    ]


@pytest.fixture
def engine():
    return ScriptedEngine(lambda question, prefix, sample, seed: SAYS[question][sample])


@pytest.fixture(scope="module")
def grader():
    with AnswerGrader(num_workers=1) as grader:
        yield grader


def test_hand_counted(engine, grader):
    result = evaluate(engine, problems(), grader, num_samples=4, sampling=SAMPLING, seed=0)
    assert [each.num_correct for each in result.problems] == [2, 1, 0]
    metrics = result.metrics
    assert metrics["avg@4"] == pytest.approx((2 / 4 + 1 / 4 + 0) / 3)
    # pass@2: 1 - C(2,2)/6 = 5/6;  1 - C(3,2)/6 = 1/2;  0.
    assert metrics["pass@2"] == pytest.approx((5 / 6 + 1 / 2) / 3)
    assert metrics["pass@4"] == pytest.approx(2 / 3)
    # maj@4: 1/2 in two spellings ties with 2: a half. 7 ties with 8, two have no vote: a half. 4 wins.
    assert metrics["maj@4"] == pytest.approx((1 / 2 + 1 / 2 + 0) / 3)
    # maj@2 of the first: {1/2, 1/2} wins, {2, 2} loses, 4 mixed pairs tie: (1 + 4 / 2) / 6. Of the second:
    # {7, none} twice wins, {7, 8} ties, {8, none} twice and {none, none} lose: (2 + 1 / 2) / 6.
    assert metrics["maj@2"] == pytest.approx((3 / 6 + 2.5 / 6) / 3)
    assert metrics["no_answer"] == pytest.approx(2 / 12)
    assert metrics["unfinished"] == pytest.approx(1 / 12)
    lengths = [len(said) + 1 if said is not None else 40 for four in SAYS.values() for said in four]
    assert metrics["mean_length"] == pytest.approx(sum(lengths) / 12)
    assert metrics["timeout"] == metrics["error"] == 0
    for name in ("avg@4", "maj@2", "maj@4", "pass@2", "pass@4"):
        assert metrics[f"{name}/low"] <= metrics[name] <= metrics[f"{name}/high"]
    assert metrics["avg@4/low"] == pytest.approx(0) and metrics["avg@4/high"] == pytest.approx(0.5)


def test_one_sample_has_one_metric(engine, grader):
    metrics = evaluate(engine, problems(), grader, num_samples=1, sampling=SAMPLING, seed=0).metrics
    assert metrics["avg@1"] == pytest.approx(2 / 3)
    assert not [name for name in metrics if name.startswith(("maj@", "pass@"))]


def test_completions_are_written(engine, grader, tmp_path):
    path = tmp_path / "deep/completions.jsonl"
    result = evaluate(engine, problems(), grader, num_samples=4, sampling=SAMPLING, seed=0, path=path)
    rows = read_jsonl(path)
    assert [(row["problem"], row["sample"]) for row in rows] == [(p, s) for p in range(3) for s in range(4)]
    assert [row["verdict"] for row in rows[:8]] == [
        "correct", "correct", "wrong", "wrong", "correct", "no_answer", "wrong", "no_answer",
    ]  # fmt: skip
    assert rows[11] == {
        "problem": 2, "sample": 3, "solution": "3", "answer": "4", "verdict": "wrong", "num_tokens": 12,
        "finish_reason": "stop", "completion": r"\boxed{ 4 }",
    }  # fmt: skip
    assert result.completions[2][3].text == r"\boxed{ 4 }"


def test_a_timeout_is_wrong_and_counted_apart(grader):
    said = iter([r"\boxed{3}", r"\boxed{9^{9^{9^{9}}}}"])
    engine = ScriptedEngine(lambda *asked: next(said))
    with AnswerGrader(num_workers=1, timeout_s=1.0) as quick:
        result = evaluate(engine, problems(["third"]), quick, num_samples=2, sampling=SAMPLING, seed=0)
    assert result.problems[0].verdicts[0] is Verdict.CORRECT
    assert result.metrics["avg@2"] == 0.5
    assert sum(result.metrics[kind] for kind in ("timeout", "error", "unreadable")) == 0.5
    assert result.metrics["maj@2"] == 0.5  # an ungradable answer still has its vote


def test_seeds_follow_the_problem_not_its_position(checkpoints, grader):
    engine = TorchEngine.from_pretrained(
        str(checkpoints["llama"]), dtype=torch.float32, device=torch.device("cpu")
    )

    def texts(names, seed):
        result = evaluate(
            engine,
            problems(names),
            grader,
            num_samples=2,
            sampling=SamplingParams(max_new_tokens=12),
            seed=seed,
        )
        return {each.problem.index: [c.text for c in each.completions] for each in result.problems}

    whole = texts(["first", "second", "third"], seed=5)
    assert texts(["third"], seed=5)[2] == whole[2]
    assert texts(["first", "second", "third"], seed=5) == whole
    assert texts(["first", "second", "third"], seed=6) != whole
    assert whole[0] != whole[1]


@pytest.mark.parametrize("num_samples, names", [(0, ["first"]), (2, [])])
def test_nothing_to_evaluate_is_refused(engine, grader, num_samples, names):
    with pytest.raises(ValueError, match=r"\[evaluate\] (num_samples|problems): expected"):
        evaluate(engine, problems(names), grader, num_samples=num_samples, sampling=SAMPLING, seed=0)
