"""The hard set: problems kept on a model with known answers, and chunks that survive a kill."""

import json
import signal
from collections import Counter
from dataclasses import replace

import pytest
from forked import run_forked
from intervention_world import PROBLEMS, hard_set_config, problem_rows, write_rows
from jsonl import read_jsonl
from killed import run_killed

from fastrl.check.intervene import check_hard_set
from fastrl.config import DataConfig, HardSetConfig, RlConfig, SamplingConfig
from fastrl.config.load import from_dict, to_dict, to_yaml
from fastrl.data import Problem, load_problems
from fastrl.grading import Verdict
from fastrl.stages.hard_set import failed_attempts, run_hard_set, with_references
from fastrl.training.progress import in_chunks, summed
from fastrl.types import Completion

HARD = ["2+3+4", "1+6+2+5", "8+3", "3+3+1", "5+2+2"]
FILES = ("hard.jsonl", "counts.json", "budget.json")
DRAWN = SamplingConfig(temperature=1.5, top_p=1.0, top_k=0, max_new_tokens=24)


def read(path):
    return read_jsonl(path)


def contents(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


def test_problems_that_are_never_solved(fixed_model, tmp_path, capsys):
    config = hard_set_config(fixed_model, tmp_path)
    check_hard_set(config)
    folder = run_hard_set(config)
    assert "problem 6/6 | right 0" in capsys.readouterr().err
    assert folder == tmp_path / "hard"
    rows = read(folder / "hard.jsonl")
    assert [row["question"] for row in rows] == HARD
    for row in rows:
        gold, attempt, reference, _, _ = PROBLEMS[row["question"]]
        assert (row["solution"], row["reference"]) == (gold, reference)
        assert row["messages"] == [{"role": "user", "content": row["question"]}]
        assert (row["num_correct"], row["num_samples"]) == (0, 4)
        (kept,) = row["attempts"]  # four times the same
        assert (kept["text"], kept["verdict"], kept["sample"]) == (attempt, "wrong", 0)
        assert kept["num_tokens"] > 5
    counts = json.loads((folder / "counts.json").read_text())
    assert counts == {
        "problems": 7, "with_reference": 6, "hard": 5, "hard_with_attempts": 5, "attempts": 5, "samples": 24,
        "unfinished": 0,
        "verdicts": {
            "correct": 4, "wrong": 20, "no_answer": 0, "unreadable": 0, "unevaluated": 0, "timeout": 0,
            "error": 0,
        },
        "problems_by_num_correct": {"0": 5, "4": 1},
    }  # fmt: skip
    budget = json.loads((folder / "budget.json").read_text())
    assert budget["total"] == budget["rollouts"] and budget["total"]["requests"] == 24
    assert budget["total"]["sampled_tokens"] > 24 * 5


def test_the_hard_set_is_read_as_problems_of_the_same_kind(fixed_model, tmp_path, terminal):
    config = hard_set_config(fixed_model, tmp_path)
    hard = run_hard_set(config) / "hard.jsonl"
    assert "problem 6 of 6" in terminal.text()
    found = load_problems(replace(config.data, path=str(hard)))
    original = {problem.question: problem for problem in load_problems(config.data)}
    assert [problem.messages for problem in found] == [original[name].messages for name in HARD]
    assert [problem.solution for problem in found] == [original[name].solution for name in HARD]


def completion(text, reason="stop"):
    return Completion(token_ids=[1] * len(text), logprobs=[], finish_reason=reason, text=text)


def test_attempts_ended_failed_differ_and_are_drawn_by_the_seed():
    graded = [
        (completion("right"), Verdict.CORRECT),
        (completion("a"), Verdict.WRONG),
        (completion("cut off", "length"), Verdict.NO_ANSWER),
        (completion("a"), Verdict.WRONG),
        (completion("none"), Verdict.NO_ANSWER),
        (completion("hung"), Verdict.TIMEOUT),
        (completion("died"), Verdict.ERROR),
        (completion("odd"), Verdict.UNREADABLE),
        (completion(" \n"), Verdict.NO_ANSWER),
    ]
    orders = Counter()
    for seed in range(40):
        kept = failed_attempts(graded, seed)
        assert {(row["sample"], row["text"]) for row in kept} == {(1, "a"), (4, "none"), (7, "odd")}
        assert kept == failed_attempts(graded, seed)
        orders[kept[0]["text"]] += 1
    assert set(orders) == {"a", "none", "odd"}


def test_a_limit_on_attempts_and_on_luck(fixed_model, tmp_path):
    config = hard_set_config(fixed_model, tmp_path, max_correct=3, keep_attempts=2)
    config = replace(config, sampling=replace(DRAWN, temperature=3.0), num_samples=12)
    rows = read(run_hard_set(config) / "hard.jsonl")
    assert max(len(row["attempts"]) for row in rows) == 2
    assert all(row["num_correct"] <= 3 for row in rows)
    for row in rows:
        assert len({kept["text"] for kept in row["attempts"]}) == len(row["attempts"])


def problem(index, **columns):
    messages = [{"role": "user", "content": "q"}]
    return Problem(index=index, messages=messages, solution="7", columns={"prompt": "q", **columns})


def test_references_are_texts_that_say_more_than_the_answer():
    config = HardSetConfig(data=DataConfig(path="some.jsonl"))
    problems = [
        problem(0, answer="3 + 4 = 7 #### 7", solution="7"),
        problem(1, answer=" 7 ", solution="7"),
        problem(2, answer=None),
        problem(3, answer="4+3"),
    ]
    found = with_references(problems, config)
    assert [(p.index, text) for p, text in found] == [(0, "3 + 4 = 7 #### 7"), (3, "4+3")]
    problems[1].columns["reference"] = " first of all "
    assert [(p.index, text) for p, text in with_references(problems, config)] == [(1, "first of all")]
    with pytest.raises(
        ValueError, match=r"\[hard_set\] reference_column: .* named proof, got columns prompt, answer"
    ):
        with_references(problems, replace(config, reference_column="proof"))


def test_no_reference_and_nothing_hard_are_refused_by_name(fixed_model, tmp_path):
    config = hard_set_config(fixed_model, tmp_path)
    bare = write_rows(tmp_path / "bare.jsonl", [{"prompt": "4+4", "answer": "8"}])
    with pytest.raises(ValueError, match=r"\[hard_set\] reference_column: .* got columns prompt, answer"):
        check_hard_set(replace(config, data=DataConfig(path=bare)))
    easy = write_rows(tmp_path / "easy.jsonl", [row for row in problem_rows() if row["prompt"] == "4+4"])
    with pytest.raises(
        ValueError, match=r"max_correct: .* at most 0 correct samples of 4, got none of 1 .*are 4"
    ):
        run_hard_set(replace(config, data=DataConfig(path=easy)))
    assert json.loads((tmp_path / "hard" / "counts.json").read_text())["hard"] == 0
    long = replace(config, sampling=replace(config.sampling, max_new_tokens=4000))
    with pytest.raises(ValueError, match=r"\[model\] path: .*sampling.max_new_tokens = 4000"):
        check_hard_set(long)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_correct": 64}, r"\[hard_set\] max_correct: expected < num_samples = 64, got 64"),
        ({"num_samples": 0}, "num_samples"),
        ({"keep_attempts": 0}, "keep_attempts"),
        ({"chunk_size": 0}, "chunk_size"),
    ],
)
def test_bad_options_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        HardSetConfig(**options)


def test_a_configuration_round_trips():
    config = HardSetConfig(reference_column="proof", sampling=SamplingConfig(stop=("\n\n",)))
    assert from_dict(to_dict(config)) == config
    assert type(from_dict({"stage": "rl"})) is RlConfig


def test_the_same_files_after_a_kill_in_the_middle(fixed_model, tmp_path):
    config = replace(hard_set_config(fixed_model, tmp_path), sampling=DRAWN)
    whole = contents(run_hard_set(config))
    cut = replace(config, run=replace(config.run, dir=str(tmp_path / "cut")))
    (tmp_path / "cut.yaml").write_text(to_yaml(cut))
    died = run_forked(run_killed, str(tmp_path / "cut.yaml"), 2)
    assert died.code == -signal.SIGKILL, died.output
    progress = tmp_path / "cut" / "progress.jsonl"
    assert len(progress.read_text().splitlines()) == 1
    with progress.open("a") as file:
        file.write('{"items": "torn')
    assert contents(run_hard_set(cut)) == whole
    assert contents(run_hard_set(cut)) == whole  # what is done is done


def test_chunks_are_worked_on_once_and_torn_ones_again(tmp_path):
    path, calls = tmp_path / "progress.jsonl", []

    def work(start, chunk):
        calls.append((start, chunk))
        return {"é": [start, *chunk], 5: (1, 2)}

    expected = [
        {"é": [0, "a", "b"], "5": [1, 2]},
        {"é": [2, "c", "d"], "5": [1, 2]},
        {"é": [4, "e"], "5": [1, 2]},
    ]
    assert in_chunks(path, list("abcde"), 2, work) == expected
    assert calls == [(0, ["a", "b"]), (2, ["c", "d"]), (4, ["e"])]
    whole = path.read_bytes()
    assert in_chunks(path, list("abcde"), 2, work) == expected
    assert len(calls) == 3
    path.write_bytes(whole[:-1])  # the last line break is missing
    assert in_chunks(path, list("abcde"), 2, work) == expected
    assert calls[3:] == [(4, ["e"])] and path.read_bytes() == whole
    with pytest.raises(ValueError, match=r"\[run\] dir: .* other items from number 3 on"):
        in_chunks(path, list("abXde"), 2, work)


def test_budgets_add_up():
    parts = [{"solve": {"a": 1}, "verify": {"a": 2, "b": 3}}, {"verify": {"a": 4}}]
    assert summed(parts) == {"solve": {"a": 1}, "verify": {"a": 6, "b": 3}, "total": {"a": 7, "b": 3}}
