"""InT's baselines: rows by hand, and a model that knows its answers by heart."""

import pytest
import torch
from intervention_world import GREEDY, PROBLEMS, hard_set_config, intervene_config

from fastrl.config import CheckpointConfig, DataConfig, EngineConfig, RlConfig, SamplingConfig
from fastrl.data import load_problems
from fastrl.data.conversations import read_conversations
from fastrl.data.rows import read_rows
from fastrl.engine.build import build_engine
from fastrl.grading import AnswerGrader
from fastrl.stages.hard_set import run_hard_set
from fastrl.stages.intervene import run_intervene
from fastrl.tiny.interventions.baselines import completed_rows, hinted_rows, reference_rows, reflected_rows
from fastrl.training.progress import write_rows

ASKED = [{"role": "user", "content": "q"}]


def hard_row(reference, messages=ASKED):
    return {"messages": messages, "question": "q", "solution": "9", "reference": reference, "attempts": []}


@pytest.fixture(scope="module")
def engine(fixed_model):
    model = CheckpointConfig(path=str(fixed_model))
    return build_engine(model, EngineConfig(max_batch_tokens=4096), torch.device("cpu"))


@pytest.fixture(scope="module")
def grader():
    with AnswerGrader(num_workers=1, timeout_s=5.0) as grader:
        yield grader


def test_references_are_cloned_whole():
    assert reference_rows([hard_row("a\nb")]) == [{"prompt": ASKED, "completion": "a\nb"}]


@pytest.mark.parametrize(
    ("reference", "share", "hint"),
    [
        ("1\n2\n3\n4", 0.5, "1\n2"),
        ("1\n2\n3\n4\n5", 0.5, "1\n2\n3"),
        ("1\n2\n3", 0.9, "1\n2"),  # never the last step
        ("One.\n\nTwo {here}.\n\nThree.", 0.1, "One."),
        ("only this", 0.5, None),
    ],
)
def test_hints_are_the_first_steps_of_the_reference(reference, share, hint):
    rows = hinted_rows([hard_row(reference)], share, template="{question}|{hint}")
    bare = {"prompt": ASKED, "question": "q", "solution": "9"}
    said = [{"role": "user", "content": f"q|{hint}"}]
    assert rows == ([bare] if hint is None else [bare, {**bare, "prompt": said}])


def test_a_hint_goes_into_the_last_users_message_as_it_is():
    system = {"role": "system", "content": "s"}
    (_, row) = hinted_rows(
        [hard_row("a {question}\nb\nc", [system, *ASKED])], 0.3, template="{question}:{hint}"
    )
    assert row["prompt"] == [system, {"role": "user", "content": "q:a {question}"}]


def test_hinted_rows_are_problems_with_a_gold_answer(tmp_path):
    write_rows(tmp_path / "hinted.jsonl", hinted_rows([hard_row("a\nb\nc")]))
    problems = load_problems(DataConfig(path=str(tmp_path / "hinted.jsonl")))
    assert [each.solution for each in problems] == ["9", "9"]
    assert problems[0].messages == ASKED and "a\nb" in problems[1].messages[0]["content"]
    assert RlConfig(data=DataConfig(path=str(tmp_path / "hinted.jsonl"))).data.prompt_column is None


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_hint_of_nothing_or_everything_is_refused(share):
    with pytest.raises(ValueError, match=r"\[hint\] share: expected a number in \(0, 1\)"):
        hinted_rows([hard_row("a\nb")], share)


def test_only_right_solutions_are_reflections(engine, grader):
    """The template shows the question alone, so the model writes what it has by heart: right for 4+4."""
    hard = [
        hard_row(row[2], [{"role": "user", "content": f"problem {q}"}]) | {"question": q, "solution": row[0]}
        for q, row in PROBLEMS.items()
    ]
    budget = {}
    rows = reflected_rows(
        engine, grader, hard, GREEDY, budget, num_samples=3, keep=2, seed=0, template="{question}"
    )
    said = [{"role": "user", "content": "problem 4+4"}]
    assert rows == [{"prompt": said, "completion": "4+4=8\n\\boxed{8}"}]  # equal ones once
    assert budget["reflect"]["requests"] == 3 * len(PROBLEMS)
    assert budget["reflect"]["sampled_tokens"] > 3 * len(PROBLEMS) * 4
    drawn = SamplingConfig(temperature=3.0, top_p=1.0, top_k=0, max_new_tokens=24)
    many = {"num_samples": 12, "seed": 1, "template": "{question}"}
    two = reflected_rows(engine, grader, hard, drawn, {}, keep=2, **many)
    assert two == reflected_rows(engine, grader, hard, drawn, {}, keep=2, **many)
    one = reflected_rows(engine, grader, hard, drawn, {}, keep=1, **many)
    assert len({str(row["prompt"]) for row in one}) == len(one) and all(row in two for row in one)


def test_a_suffix_is_the_rest_of_a_right_solution(fixed_model, engine, grader, tmp_path):
    hard = run_hard_set(hard_set_config(fixed_model, tmp_path)) / "hard.jsonl"
    folder = run_intervene(intervene_config(fixed_model, tmp_path, hard, filter="none", select="first"))
    interventions = read_rows(str(folder / "sft.jsonl"))
    assert [row["question"] for row in interventions] == ["2+3+4", "1+6+2+5", "5+2+2"]
    budget = {}
    rows = completed_rows(engine, grader, interventions, GREEDY, budget, num_samples=2, seed=0)
    # 5+2=6 goes on to a wrong answer
    assert [(row["question"], row["prefix"], row["completion"]) for row in rows] == [
        ("2+3+4", "", "2+3=5\n5+4=9\n\\boxed{9}"),
        ("1+6+2+5", "1+6=7\n", "7+2=9\n9+5=4\n\\boxed{4}"),
    ]
    assert budget["suffix"]["requests"] == 6
    write_rows(tmp_path / "rows.jsonl", rows)
    for sequence in read_conversations(str(tmp_path / "rows.jsonl"), engine.tokenizer):
        assert sequence.token_ids[-1] == engine.tokenizer.eos_token_id and sequence.loss_mask[-1]
