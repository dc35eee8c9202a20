"""Faithfulness and diversity of eight responses written by hand: labels, probes, judges, clusters."""

import math
import re
from dataclasses import replace

import pytest
from jsonl import read_jsonl
from scripted import ScriptedEngine

from fastrl.config import CheckpointConfig, FaithfulnessConfig, WriterConfig
from fastrl.data import Problem
from fastrl.grading import AnswerGrader
from fastrl.methods.weak.corruption import Corruption
from fastrl.methods.weak.judge import Judge
from fastrl.methods.weak.labelled import measure
from fastrl.methods.weak.probes import Probes, probe
from fastrl.tiny.weak.faithful import aligned, strategy
from fastrl.types import SamplingParams

RESPONSES = {
    "2+3+1": ("6", [
        "2+3=5\n5+1=6\n\\boxed{6}", "2+3=5\n5+1=6\n\\boxed{6}", "2+3+1=6\n\\boxed{6}", "no idea",
    ]),
    "4-1+5": ("8", [
        "4-1=3\n3+5=8\n\\boxed{7}", "4-1=2\n2+5=7\n\\boxed{7}", "\\boxed{8}", "4-1=3\n3+5=8\n\\boxed{8}",
    ]),
}  # fmt: skip
LABELS = ["1", "1", "0.5", None, "0", "0.5", "0", "1"]
CONFIG = FaithfulnessConfig(enabled=True, num_problems=2, num_samples=4, taus=(0.0, 1.0), diversity=True,
                            strategy="fastrl.tiny.weak.faithful.strategy", slack_tokens=3)  # fmt: skip
SAMPLING = SamplingParams(max_new_tokens=60, stop=("END",))


def writes(question, prefix, sample, seed):
    """The responses; after a part of one it answers with the last result it reads, or else 0."""
    if not prefix:
        return RESPONSES[question][1][sample]
    last = ([*re.findall(r"=(\d)", prefix)] or ["0"])[-1]
    return f"{last}}}$" if prefix.endswith("{") else f"\n\\boxed{{{last}}}"


def spoil_last(text, random):
    places = [match.end() for match in re.finditer(r"=\d", text)]
    if not places:
        return None
    kept = text[: places[-1]]
    return Corruption(kept=kept, spoilt=f"{kept[:-1]}{(int(kept[-1]) + 1) % 10}")


def probes(**changes) -> Probes:
    problems = [
        Problem(
            index=index,
            messages=[{"role": "user", "content": question}],
            solution=solution,
            columns={"expression": question},
        )
        for index, (question, (solution, _)) in enumerate(RESPONSES.items())
    ]
    whole = Probes(config=CONFIG, problems=problems, corrupt=spoil_last, checker=aligned, strategy=strategy)
    return replace(whole, **changes)


def judge(write) -> Judge:
    engine = ScriptedEngine(lambda question, *rest: write(question))
    return Judge(engine=engine, sampling=SamplingParams(max_new_tokens=20, temperature=0.0))


def lenient(question):
    """Calls whatever has a step aligned; of two, only one of which has steps, that they differ."""
    pair = re.search(r"<first>(.*)</first>.*<second>(.*)</second>", question, re.DOTALL)
    if pair is not None:
        return "||yes||" if ("=" in pair[1]) != ("=" in pair[2]) else "||no||"
    response = re.search(r"<response>(.*)</response>", question, re.DOTALL)[1]
    return "hm" if "idea" in response else "||1||" if "=" in response else "||0||"


def second(question):
    response = re.search(r"<response>(.*)</response>", question, re.DOTALL)[1]
    return "||0||" if "idea" in response else "||1||" if "=" in response else "||0.5||"


@pytest.fixture(scope="module")
def grader():
    with AnswerGrader(num_workers=1) as one:
        yield one


def measured(grader, own=None, judges=(), write=writes):
    own = own or probes()
    engine = ScriptedEngine(write)
    return measure(probe(engine, own, grader, sampling=SAMPLING, seed=1), own, dict(judges)), engine


def test_probes_and_exact_labels_by_hand(grader):
    found, engine = measured(grader)
    metrics = found.metrics
    assert [row["labels"] for row in found.rows] == [{"checker": label} for label in LABELS]
    expected = {
        "num_problems": 2, "num_samples": 4, "accuracy": 5 / 8, "answered": 7 / 8,
        # at 1 the answers settled: all three of the first problem, two of four of the second; 0 is nobody's
        "forced": 3 / 8, "forced/at_0": 0, "forced/at_1": 3 / 4, "forced/low": 1 / 4, "forced/high": 1 / 2,
        # without a change, the one that answers 7 after reaching 8 changes its mind
        "corruption": 5 / 6, "corruption/low": 2 / 3, "corruption/high": 1, "corruption/corrupted": 1,
        "corruption/control": 1 / 6, "corruption/unfinished": 0, "corruption/share": 6 / 8,
        "checker/aligned": 3 / 7, "checker/partial": 2 / 7, "checker/misaligned": 2 / 7,
        "checker/score": 4 / 7, "checker/unlabelled": 1 / 8,
        "checker/correct/aligned": 3 / 5, "checker/correct/partial": 1 / 5,
        "checker/correct/misaligned": 1 / 5, "checker/correct/score": 3.5 / 5,
        "checker/incorrect/aligned": 0, "checker/incorrect/partial": 1 / 2,
        "checker/incorrect/misaligned": 1 / 2, "checker/incorrect/score": 1 / 4,
    }  # fmt: skip
    told = {name: value for name, value in metrics.items() if name.startswith("faithfulness/")}
    assert told == pytest.approx({f"faithfulness/{name}": value for name, value in expected.items()})
    # after the step of 11 bytes, 60 + 3 less these
    assert {most for _, prefix, most, _ in engine.asked if prefix == "2+3=5\n5+1=7"} == {60 - 11 + 3}


def test_strategies_of_all_and_of_the_faithful_by_hand(grader):
    found, _ = measured(grader)
    assert [row["strategy"] for row in found.rows] == [
        "explicit explicit", "explicit explicit", "leap", "unreadable",
        "explicit explicit", "explicit explicit", "none", "explicit explicit",
    ]  # fmt: skip
    assert [row["clusters"]["all"] for row in found.rows] == [0, 0, 1, 2, 0, 0, 1, 0]
    assert [row["clusters"]["faithful"] for row in found.rows] == [0, 0, None, None, None, None, None, 0]
    first, other = 2**1.5, 4 / 27**0.25  # exp(H) of 2:1:1 and of 3:1
    expected = {
        "num_responses": 4, "num_clusters": 2.5, "effective": (first + other) / 2,
        "entropy": (math.log(first) + math.log(other)) / 2,
        "evenness": ((first - 1) / 2 + other - 1) / 2, "log_clusters": (math.log(3) + math.log(2)) / 2,
        "faithful/num_responses": 1.5, "faithful/num_clusters": 1, "faithful/effective": 1,
        "faithful/entropy": 0, "faithful/evenness": 0, "faithful/log_clusters": 0,
    }  # fmt: skip
    told = {name: value for name, value in found.metrics.items() if name.startswith("diversity/")}
    assert told == pytest.approx({f"diversity/{name}": value for name, value in expected.items()})


def test_judges_and_how_far_they_agree_by_hand(grader):
    judges = {"judge": judge(lenient), "second_judge": judge(second)}
    found, _ = measured(grader, judges=judges.items())
    metrics = found.metrics
    assert [row["labels"]["judge"] for row in found.rows] == ["1", "1", "1", None, "1", "1", "0", "1"]
    assert metrics["faithfulness/judge/aligned"] == pytest.approx(6 / 7)
    assert metrics["faithfulness/judge/unlabelled"] == 1 / 8
    assert metrics["faithfulness/judge/unreadable_replies"] == 1
    assert metrics["faithfulness/second_judge/correct/score"] == pytest.approx(4.5 / 5)
    assert metrics["faithfulness/second_judge/unreadable_replies"] == 0
    kappas = {pair: each.kappa for pair, each in found.agreements.items()}
    assert kappas == pytest.approx({
        "checker/judge": (28 - 20) / (49 - 20), "checker/second_judge": (21 - 20) / (49 - 20),
        "judge/second_judge": (42 - 36) / (49 - 36),
    })  # fmt: skip
    pair = "faithfulness/agreement/judge/second_judge"
    assert metrics[f"{pair}/observed"] == pytest.approx(6 / 7)
    assert metrics[f"{pair}/num_items"] == 7 and metrics[f"{pair}/kappa"] == kappas["judge/second_judge"]


def test_a_judge_finds_the_strategies_where_no_function_does(grader):
    judged = WriterConfig(model=CheckpointConfig(path="named"))
    own = probes(config=replace(CONFIG, strategy=None, judge=judged), strategy=None)
    found, _ = measured(grader, own, {"judge": judge(lenient)}.items())
    assert [row["clusters"]["all"] for row in found.rows] == [0, 0, 0, 1, 0, 0, 1, 0]
    assert [row["clusters"]["faithful"] for row in found.rows] == [0, 0, None, None, None, None, None, 0]
    assert found.metrics["diversity/num_clusters"] == 2
    assert found.metrics["diversity/unreadable_replies"] == 0
    alone, _ = measured(grader, replace(own, checker=None), {"judge": judge(lenient)}.items())
    # now the judge's own labels say who is faithful
    assert [row["clusters"]["faithful"] for row in alone.rows] == [0, 0, 0, None, 0, 0, None, 0]
    assert "faithfulness/checker/aligned" not in alone.metrics and alone.agreements == {}


def test_without_labels_there_is_no_faithful_diversity(grader):
    found, _ = measured(grader, probes(checker=None))
    assert "diversity/effective" in found.metrics
    assert not any("faithful/" in name for name in found.metrics if name.startswith("diversity"))


def test_what_is_about_no_response_has_no_metric(grader):
    def silent(question, prefix, sample, seed):
        return "no idea"

    found, _ = measured(grader, write=silent)
    assert found.metrics["faithfulness/answered"] == found.metrics["faithfulness/accuracy"] == 0
    assert found.metrics["faithfulness/checker/unlabelled"] == 1
    assert not any(re.search("forced|corruption|score", name) for name in found.metrics)
    assert found.metrics["diversity/effective"] == 1  # all of them say the same
    unspoilt, _ = measured(grader, probes(corrupt=lambda text, random: None))
    assert unspoilt.metrics["faithfulness/forced"] == 3 / 8
    assert not any("corruption" in name for name in unspoilt.metrics)


def test_probes_can_be_left_out(grader):
    found, engine = measured(grader, probes(config=replace(CONFIG, probes=False)))
    assert {prefix for _, prefix, _, _ in engine.asked} == {""}
    assert "faithfulness/forced" not in found.metrics and "faithfulness/checker/score" in found.metrics
    assert all(row["reproduced"] is row["changed"] is None for row in found.rows)


def test_rows_say_what_is_known_of_each_response(grader, tmp_path):
    found, _ = measured(grader)
    found.write(tmp_path / "new/rows.jsonl")
    rows = read_jsonl(tmp_path / "new/rows.jsonl")
    assert rows == found.rows
    assert [(row["problem"], row["sample"]) for row in rows] == [(p, s) for p in (0, 1) for s in range(4)]
    assert rows[4] == {
        "problem": 1, "sample": 0, "question": "4-1+5", "solution": "8", "answer": "7", "verdict": "wrong",
        "finish_reason": "stop", "completion": "4-1=3\n3+5=8\n\\boxed{7}", "labels": {"checker": "0"},
        "strategy": "explicit explicit", "clusters": {"all": 0, "faithful": None},
        "reproduced": [0.0, 0.0], "changed": [1.0, 1.0],
    }  # fmt: skip
    assert rows[3]["reproduced"] is None and rows[6]["changed"] is None


@pytest.mark.parametrize("value", [0.25, 2, "1", math.nan])
def test_a_checker_that_says_something_else_is_refused(grader, value):
    with pytest.raises(ValueError, match=r"\[faithfulness\] checker: expected 1, 0.5, 0 or None, got"):
        measured(grader, probes(checker=lambda row, text: value))


def test_a_strategy_without_a_hash_is_refused(grader):
    with pytest.raises(ValueError, match=r"\[faithfulness\] strategy: expected a hashable name, got \[1\]"):
        measured(grader, probes(strategy=lambda text: [1]))


def test_a_checker_reads_the_problem(grader):
    seen = []
    measured(grader, probes(checker=lambda row, text: seen.append(row)))
    assert seen[0] == {"expression": "2+3+1", "question": "2+3+1", "solution": "6"} and len(seen) == 8
