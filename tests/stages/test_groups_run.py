"""fastrl groups build, from a file to groups: every source of flawed traces, every dropped one counted."""

import json
import re
from dataclasses import replace

import checkpoints
import pytest
from checkpoints import byte_tokenizer, write_checkpoint
from jsonl import write_jsonl

from fastrl.check.groups import check_groups
from fastrl.cli.groups import main as command
from fastrl.config import (
    CheckpointConfig,
    DataConfig,
    EngineConfig,
    ExecutorConfig,
    GroupsConfig,
    RunConfig,
    WriterConfig,
)
from fastrl.config.load import from_dict, to_dict
from fastrl.engine.protocol import EngineStats
from fastrl.methods.tracelift.groups import proposals
from fastrl.methods.tracelift.groups.taxonomy import TAXONOMY
from fastrl.methods.tracelift.rubric_dimensions import DIMENSIONS
from fastrl.methods.tracelift.trace_groups import read_groups
from fastrl.stages.groups import read_counts, run_groups
from fastrl.types import Completion

LOW = dict.fromkeys(DIMENSIONS["math"], 1)
CODE = ("task_understanding", "plan_quality", "step_coherence", "action_support", "non_leakage")


def worked(k):
    """A problem in GSM8K's form, in four steps."""
    a, b, c = 20 + k, 3 + k % 5, 7 + k
    return {
        "question": f"Ann packs {a} boxes of {b} pens. She adds {c} loose pens, and doubles it. How many?",
        "answer": f"The boxes hold {a}*{b} = <<{a}*{b}={a * b}>>{a * b} pens.\n"
        f"With the others it is {a * b}+{c} = <<{a * b}+{c}={a * b + c}>>{a * b + c} pens.\n"
        f"Twice that is {a * b + c}*2 = <<{a * b + c}*2={2 * (a * b + c)}>>{2 * (a * b + c)} pens.\n"
        f"#### {2 * (a * b + c)}",
    }


def config_of(tmp_path, rows, **options):
    return GroupsConfig(
        run=RunConfig(dir=str(tmp_path / "run"), seed=18, device="cpu"),
        data=DataConfig(path=write_jsonl(tmp_path / "rows.jsonl", rows)),
        **options,
    )


def read_all(folder, ending="jsonl"):
    return [group for name in ("train", "dev") for group in read_groups(str(folder / f"{name}.{ending}"))]


class Scripted:
    """Writes what a function of the prompt says."""

    def __init__(self, write):
        self.tokenizer, self.write, self.num_asked, self.asleep = byte_tokenizer(), write, 0, False

    def generate(self, prompts, sampling, *, seeds, n=1):
        self.num_asked += len(prompts)
        texts = [self.write(self.tokenizer.decode(prompt, skip_special_tokens=True)) for prompt in prompts]
        return [[Completion(token_ids=[], logprobs=[], finish_reason="stop", text=text)] for text in texts]

    def sleep(self, level=1):
        self.asleep = True

    def stats(self):
        return EngineStats()


def judgment(dimensions, overall, label, **scores):
    fields = (
        dict.fromkeys(dimensions, 9.0) | scores | {"overall": overall, "label": label, "reason": "So it is."}
    )
    return json.dumps(fields)


def scripted_models(monkeypatch, **models):
    engines = {name: Scripted(write) for name, write in models.items()}
    monkeypatch.setattr(proposals, "build_engine", lambda model, *_: engines[model.path])
    return engines


def model(path, **options):
    return WriterConfig(model=CheckpointConfig(path=path), **options)


def test_calculator_groups(tmp_path):
    rows = [worked(k) for k in range(30)]
    bad = [
        {"question": "Why?", "answer": "So.\n#### 3"},
        {**worked(40), "answer": worked(40)["answer"] + "0"},
    ]
    config = config_of(tmp_path, [*rows, *bad, rows[0]], dev_share=0.2)
    folder = run_groups(config)
    groups = read_all(folder)
    assert sorted(group.problem for group in groups) == sorted(row["question"] for row in rows)
    dev = {group.problem for group in read_groups(str(folder / "dev.jsonl"))}
    assert 0 < len(dev) < 15
    for group in groups:
        (good,) = group.positive_pool
        assert "<<" not in good.text + "####" and good.total == 1.0
        assert f"<<{group.answer}>>" not in group.reference_solution and group.answer in good.text
        assert len(group.negative_bank) == 8 and not group.columns
        assert len({trace.text for trace in group.negative_bank}) == 8
        assert all(trace.label in ("weak", "bad") and trace.place for trace in group.negative_bank)
    counts = read_counts(folder)
    assert counts["seeds"] == {
        "usable": 30,
        "dropped": {
            "the same problem again": 1,
            "no calculator mark": 1,
            "the last equation is not the answer": 1,
        },
    }
    assert counts["groups"] == {
        "train": 30 - len(dev),
        "dev": len(dev),
        "too_few_negatives": 0,
        "negatives": 240,
    }
    assert sum(n["kept"] for n in counts["negatives"].values()) == 240
    page = (folder / "page.html").read_text()
    assert page.count("<mark>") >= 6 * 8 and "://" not in page and "wrong_operation" in page


def test_a_finished_folder_is_returned_and_another_run_refused(tmp_path):
    config = config_of(tmp_path, [worked(k) for k in range(8)], dev_share=0.0)
    folder = run_groups(config)
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.jsonl")}
    assert run_groups(config) == folder
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("*.jsonl")} == before
    assert [path.name for path in folder.glob("*.jsonl")] == ["train.jsonl"]
    with pytest.raises(ValueError, match="holds a run whose margin differ"):
        run_groups(config_of(tmp_path, [worked(k) for k in range(8)], dev_share=0.0, margin=0.3))


def test_the_same_groups_in_parquet_and_again(tmp_path):
    rows = [worked(k) | {"level": k if k % 2 else "odd"} for k in range(12)]
    for name in "abc":
        (tmp_path / name).mkdir()
    first = run_groups(config_of(tmp_path / "a", rows, dev_share=0.4))
    again = run_groups(config_of(tmp_path / "b", rows[::-1], dev_share=0.4))
    flat = run_groups(config_of(tmp_path / "c", rows, dev_share=0.4, format="parquet"))
    assert read_all(flat, "parquet") == read_all(first)
    assert {group.columns["level"] for group in read_all(flat, "parquet")} >= {1, "odd"}
    assert sorted(read_all(again), key=lambda g: g.problem_id) == sorted(
        read_all(first), key=lambda g: g.problem_id
    )


def candidate(k, **fields):
    return {"text": f"flawed in way {k}", "negative_kind": f"kind{k % 2}", "place": [0, 6], **fields}


def sum_of(name, k, candidates):
    question, answer = f"1+{k}", f"{1 + k}"
    return {
        "problem_id": name, "prompt": question, "solution": answer,
        "reference_solution": f"{question}={answer}", "candidates": candidates,
    }  # fmt: skip


def test_given_groups_with_and_without_scores(tmp_path, monkeypatch):
    scores = dict.fromkeys(DIMENSIONS["math"], 9) | {"step_coherence": 1}
    given = [candidate(k, scores=scores) for k in range(4)]
    judged = [candidate(4), candidate(5, place=None), candidate(6)]
    good = {"text": "one and five: six", "scores": scores | {"step_coherence": 8.5}}
    rows = [
        sum_of("a", 1, given + judged),
        sum_of("b", 2, given[:3]),
        sum_of("c", 3, []),
        sum_of("d", 4, given) | {"reference_solution": None},
        sum_of("e", 5, given) | {"level": 2, "positive": good},
    ]
    answers = {
        "flawed in way 4": judgment(DIMENSIONS["math"], 4, "weak", step_coherence=3),
        "flawed in way 5": judgment(DIMENSIONS["math"], 9, "strong"),
        "flawed in way 6": "can't say",
    }
    scripted = scripted_models(
        monkeypatch, judge=lambda prompt: next(a for text, a in answers.items() if text in prompt)
    )
    config = config_of(tmp_path, rows, negatives="given", judge=model("judge", retries=1), dev_share=0.0)
    groups = {group.problem_id: group for group in read_groups(str(run_groups(config) / "train.jsonl"))}
    assert set(groups) == {"a", "e"}
    assert [trace.text[-1] for trace in groups["a"].negative_bank] == ["0", "1", "2", "3", "4"]
    by_rule, by_judge = groups["a"].negative_bank[0], groups["a"].negative_bank[4]
    assert (by_rule.total, by_rule.label, by_rule.place) == (pytest.approx((37 / 5 + 1) / 20), "weak", (0, 6))
    assert (by_judge.total, by_judge.label, by_judge.reason) == (0.4, "weak", "So it is.")
    assert by_judge.scores == dict.fromkeys(DIMENSIONS["math"], 9.0) | {"step_coherence": 3.0}
    assert groups["a"].positive_pool[0].text == "1+1=2" and groups["a"].positive_pool[0].total == 1.0
    assert groups["e"].positive_pool[0].total == pytest.approx((44.5 / 5 + 8.5) / 20)
    assert groups["e"].columns == {"solution": "6", "level": 2}
    assert scripted["judge"].num_asked == 4 and scripted["judge"].asleep
    counts = read_counts(tmp_path / "run")
    assert counts["seeds"] == {"usable": 3, "dropped": {"no reference solution": 1, "no candidates": 1}}
    assert counts["judged_unread"] == {"not JSON": 2, "given up": 1}
    assert counts["negatives"] == {"kind0": {"proposed": 7, "kept": 5}, "kind1": {"proposed": 6, "kept": 4}}
    assert [f["dropped"] for f in counts["filters"] if f["dropped"]] == [{"kind1": 1}]
    assert counts["groups"] == {"train": 2, "dev": 0, "too_few_negatives": 1, "negatives": 9}


def flawed(prompt):
    """A writer that knows its trade, but for one kind."""
    good = re.search(r"Sound reasoning:\n(.*?)\n\nThe flaw: (.*)\n\nRules", prompt, re.DOTALL)
    kind = next(name for name, kind in TAXONOMY["math"].items() if kind.task == good[2])
    if kind == "unit_mixup":
        return "I can't do that."
    return f"<reasoning>{good[1].replace('Twice', kind)}</reasoning>"


def test_written_groups_and_a_kill_between(tmp_path, monkeypatch):
    def judge(prompt):
        if "order_mixup that" in prompt:
            return judgment(DIMENSIONS["math"], 8, "acceptable")
        if "skipped_step that" in prompt:
            raise KeyboardInterrupt
        return judgment(DIMENSIONS["math"], 2, "bad", step_coherence=0)

    rows = [worked(k) for k in range(3)]
    config = config_of(
        tmp_path, rows, negatives="written", writer=model("writer", retries=1), judge=model("judge"),
        candidates=9, dev_share=0.0,
    )  # fmt: skip
    first = scripted_models(monkeypatch, writer=flawed, judge=judge)
    with pytest.raises(KeyboardInterrupt):
        run_groups(config)
    assert first["writer"].num_asked == 3 * 9 + 3
    second = scripted_models(
        monkeypatch, writer=flawed, judge=lambda prompt: judge(prompt.replace("skipped_step that", "That"))
    )
    groups = read_groups(str(run_groups(config) / "train.jsonl"))
    assert second["writer"].num_asked == 0 and second["judge"].num_asked == 3 * 8
    assert len(groups) == 3
    for group in groups:
        kinds = {trace.negative_kind: trace for trace in group.negative_bank}
        assert set(kinds) == set(TAXONOMY["math"]) - {"unit_mixup", "order_mixup"}
        start, end = kinds["arithmetic_slip"].place
        assert kinds["arithmetic_slip"].text[start:end] == "arithmetic_slip"
        assert kinds["arithmetic_slip"].total == 0.2
    counts = read_counts(tmp_path / "run")
    assert counts["written_unread"] == {"no reasoning in tags": 6, "given up": 3}
    assert counts["judged_unread"] == {}
    assert counts["filters"][1] == {"name": "not weak or bad", "before": 24, "dropped": {"order_mixup": 3}}


def test_code_groups_judge_the_teacher_too(tmp_path, monkeypatch):
    words = "Sort the numbers and walk through them once. " * 6
    row = {
        "prompt": "Print the numbers in order.", "program": "print(sorted(map(int, input().split())))",
        "tests": [{"stdin": "2 1", "stdout": "1 2"}],
        "candidates": [candidate(k, text=f"{words} flaw {k}") for k in range(4)],
    }  # fmt: skip
    rows = [
        row | {"task_id": "good", "reasoning": f"<think>{words}</think> and more"},
        row | {"task_id": "short", "reasoning": "Sort them."},
        row | {"task_id": "weak", "reasoning": words.replace("Sort", "Shuffle")},
        row | {"task_id": "silent", "reasoning": words.replace("Sort", "Sing")},
    ]

    def judge(prompt):
        graded = prompt.partition("Reasoning to grade:")[2].partition("Give each of these")[0]
        if " flaw " in graded:
            return judgment(CODE, 3, "weak", action_support=2)
        if "Sing" in graded:
            return "no"
        return judgment(CODE, 3, "bad") if "Shuffle" in graded else judgment(CODE, 9, "strong")

    scripted_models(monkeypatch, judge=judge)
    config = config_of(tmp_path, rows, task="code", negatives="given", judge=model("judge"), dev_share=0.0)
    config = replace(config, data=replace(config.data, solution_column="program"))
    (group,) = read_groups(str(run_groups(config) / "train.jsonl"))
    assert group.problem_id == "good" and group.positive_pool[0].text == words.strip()
    assert group.positive_pool[0].total == 0.9
    assert group.answer == group.reference_solution == row["program"]
    assert "2 1" in group.tests and "1 2" in group.tests
    assert group.columns["tests"] == row["tests"]
    counts = read_counts(tmp_path / "run")
    assert counts["seeds"]["dropped"] == {
        "the teacher's reasoning is too short": 1,
        "the positive is judged weak or bad": 1,
        "the positive could not be judged": 1,
    }


@pytest.fixture(scope="module")
def random_model(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(checkpoints.SIZES, "max_position_embeddings", 4096)
        return str(write_checkpoint(tmp_path_factory.mktemp("random"), "qwen3"))


def test_a_random_writer_is_rejected_and_counted(tmp_path, random_model, capsys):
    config = config_of(
        tmp_path, [worked(0), worked(1)], negatives="written", candidates=4,
        writer=model(random_model, max_new_tokens=8, retries=1), judge=model(random_model, max_new_tokens=8),
    )  # fmt: skip
    check_groups(config)
    for _ in range(2):  # the second time the folder is finished
        with pytest.raises(ValueError, match=r"\[groups\] min_negatives: .* got none of 2 problems"):
            run_groups(config)
    counts = read_counts(tmp_path / "run")
    assert "answer 16/16" in capsys.readouterr().err
    assert counts["written_unread"] == {"no reasoning in tags": 2 * 2 * 4, "given up": 8}
    assert counts["groups"] == {"train": 0, "dev": 0, "too_few_negatives": 2, "negatives": 0}
    assert len((tmp_path / "run" / "written.jsonl").read_text().splitlines()) == 16


def test_a_random_judge_is_rejected_and_a_random_executor_runs(tmp_path, random_model, terminal):
    row = worked(0) | {"candidates": [candidate(k) for k in range(4)]}
    judged = config_of(
        tmp_path, [row], negatives="given", judge=model(random_model, max_new_tokens=8, retries=0)
    )
    with pytest.raises(ValueError, match="min_negatives"):
        run_groups(judged)
    assert read_counts(tmp_path / "run")["judged_unread"] == {"not JSON": 4, "given up": 4}
    assert "answer 4 of 4" in terminal.text()
    (tmp_path / "b").mkdir()
    executor = ExecutorConfig(model=CheckpointConfig(path=random_model), max_new_tokens=4)
    config = config_of(tmp_path / "b", [worked(0), worked(1)], executor=executor, dev_share=0.0)
    check_groups(config)
    groups = read_groups(str(run_groups(config) / "train.jsonl"))
    last = read_counts(tmp_path / "b" / "run")["filters"][-1]
    # it never succeeds, so no flawed trace does better than the good one
    assert (last["name"], last["before"], last["dropped"]) == (
        "helps the executor more than the positive",
        16,
        {},
    )
    assert len(groups) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "code"}, r"\[groups\] negatives: expected given or written .*, got 'calculator'"),
        ({"negatives": "given"}, r"\[groups\] negatives: expected a file with a column candidates, got"),
        ({"negatives": "written"}, r"\[writer.model\] path: expected a model folder, hub name or .* got ''"),
        ({"reference_column": "proof"}, r"\[groups\] reference_column: expected a column named proof, got"),
        (
            {"executor": ExecutorConfig(model=CheckpointConfig(path="/nowhere/at/all"))},
            r"\[executor.model\] path: expected a model folder .*, got '/nowhere/at/all'",
        ),
    ],
    ids=["code", "given", "written", "reference", "executor"],
)  # fmt: skip
def test_what_is_refused_before_a_model_is_loaded(tmp_path, options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        check_groups(config_of(tmp_path, [worked(0)], **options))


def test_lengths_and_missing_scores_are_refused_early(tmp_path, random_model, checkpoints):
    rows = [worked(0) | {"candidates": [candidate(0)]}]
    with pytest.raises(
        ValueError, match=r"\[judge.model\] path: expected a model folder, hub name or .gguf file, got ''"
    ):
        check_groups(config_of(tmp_path, rows, negatives="given"))
    same = model(random_model, engine=EngineConfig(kind="same"))
    with pytest.raises(ValueError, match=r"\[judge.engine\] kind: expected torch or vllm, got 'same'"):
        check_groups(config_of(tmp_path, rows, negatives="given", judge=same))
    small = model(str(checkpoints["qwen3"]), max_new_tokens=8)
    with pytest.raises(
        ValueError, match=r"\[judge.model\] path: expected a model that holds \d+ tokens, got 512"
    ):
        check_groups(config_of(tmp_path, rows, negatives="given", judge=small))
    check_groups(config_of(tmp_path, rows, negatives="given", judge=model(random_model, max_new_tokens=8)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text": None}, r"candidates\[1\]: expected a trace with text"),
        ({"place": [3, 99]}, r"candidates\[1\].place: expected \(start, end\) in the text, got \[3, 99\]"),
        ({"negative_kind": None}, r"candidates\[1\].negative_kind: expected a name"),
        ({"scores": {"style": 1}}, r"candidates\[1\].scores: expected problem_understanding"),
        ({"scores": LOW | {"step_coherence": 11}}, r"scores.step_coherence: expected 0 to 10, got 11"),
        ({"scores": LOW, "total": 2}, r"candidates\[1\].total: expected 0 to 1"),
        ({"scores": LOW, "label": "poor"}, r"candidates\[1\].label: expected one of"),
    ],
)  # fmt: skip
def test_given_traces_that_are_none(tmp_path, fields, message):
    row = worked(0) | {"problem_id": "p7", "candidates": [candidate(0), candidate(1, **fields)]}
    with pytest.raises(ValueError, match=rf"\[groups\] problem p7, .*{message}"):
        check_groups(config_of(tmp_path, [row], negatives="given"))


def test_the_command(tmp_path, capsys):
    path = write_jsonl(tmp_path / "rows.jsonl", [worked(k) for k in range(5)])
    flags = ["--data.path", path, "--run.dir", str(tmp_path / "run"), "--dev_share", "0", "--candidates", "6"]
    assert command(["build", *flags]) == 0
    printed = capsys.readouterr().out
    for part in ("problems", "flawed traces", "filters", "groups", "arithmetic_slip", "too few negatives"):
        assert part in printed
    assert len(read_groups(str(tmp_path / "run" / "train.jsonl"))) == 5
    for arguments in ([], ["make"]):
        with pytest.raises(ValueError, match=r"\[groups\] command: expected build, got"):
            command(arguments)
    config = config_of(tmp_path, [worked(0)])
    assert from_dict(to_dict(config)) == config
