"""The subset stage: files by hand from a model with known answers, a kill, refusals, real engines."""

import json
import os
import signal
from collections import Counter
from dataclasses import replace
from functools import partial

import pytest
import torch
from checkpoints import byte_tokenizer
from jsonl import write_jsonl

import fastrl.stages.subset as stage
from fastrl.check.subset import check_subset
from fastrl.config import CheckpointConfig, DataConfig, RunConfig, SamplingConfig, SubsetConfig
from fastrl.config.load import from_dict, load_config, to_dict, to_yaml
from fastrl.data import load_problems
from fastrl.data.rows import read_rows
from fastrl.engine.protocol import EngineStats
from fastrl.grading import Verdict
from fastrl.runtime.run import read_metrics
from fastrl.stages.subset import cached, run_subset, surely_differ, wrong_votes
from fastrl.tiny.folders import default_cache
from fastrl.tiny.world.config import WorldConfig
from fastrl.tiny.world.make import world_key
from fastrl.types import Completion

NUM_SAMPLES = 8
TINY = default_cache() / world_key(WorldConfig())


class KnownModel:
    """Problem "q7 r3" is solved by the first 3 of 8 samples; the others say what stands at their place."""

    max_model_len = 4096
    says = "37332212"

    def __init__(self, on_call=lambda number: None):
        self.tokenizer, self.on_call, self.calls = byte_tokenizer(), on_call, 0
        self.asked, self.seeds = EngineStats(), []

    def generate(self, prompts, sampling, *, seeds, n):
        self.calls += 1
        self.seeds += seeds
        self.on_call(self.calls)
        self.asked = replace(self.asked, requests=self.asked.requests + n * len(prompts))
        return [[self.sample(prompt, j) for j in range(n)] for prompt in prompts]

    def sample(self, prompt, j):
        right = int(self.tokenizer.decode(prompt, skip_special_tokens=True).partition(" r")[2])
        answer = "70" if j < right else self.says[j]
        text = f"so \\boxed{{{answer}}}"
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        return Completion(token_ids=ids, logprobs=[], finish_reason="stop" if j != 5 else "length", text=text)

    def stats(self):
        return self.asked


# 0 to 8 right of 8, three problems each and two more of the hardest
SOLVED = [k % 9 for k in range(27)] + [1, 1]


def write_problems(path, solved=SOLVED):
    rows = [{"question": f"q{k} r{c}", "answer": "70", "id": f"#{k}"} for k, c in enumerate(solved)]
    write_jsonl(path, rows)
    return path


def config_of(folder, name="run", **options):
    return SubsetConfig(
        run=RunConfig(dir=str(folder / name), seed=3, device="cpu"),
        data=DataConfig(path=str(write_problems(folder / "problems.jsonl"))),
        **{"num_samples": NUM_SAMPLES, "sizes": (4, 7, 16), "chunk_size": 10, **options},
    )


@pytest.fixture
def model(monkeypatch):
    known = KnownModel()
    monkeypatch.setattr(stage, "build_engine", lambda *asked: known)
    return known


def ids(rows):
    return [row["id"] for row in rows]


def test_solved_counts_and_nested_subsets(model, tmp_path, capsys):
    folder = run_subset(config_of(tmp_path))
    assert "problem 29/29 | right" in capsys.readouterr().err
    solved = read_rows(str(folder / "solved.jsonl"))
    assert [row["num_correct"] for row in solved] == SOLVED and {row["num_samples"] for row in solved} == {8}
    assert solved[2] == {
        "question": "q2 r2", "answer": "70", "id": "#2", "gold": "70", "num_correct": 2, "num_samples": 8,
        "answers": [
            {"answer": "2", "count": 3, "verdict": "wrong"},
            {"answer": "70", "count": 2, "verdict": "correct"},
            {"answer": "3", "count": 2, "verdict": "wrong"},
            {"answer": "1", "count": 1, "verdict": "wrong"},
        ],
    }  # fmt: skip
    subsets = [read_rows(str(folder / f"subset-{size}.jsonl")) for size in (4, 7, 16)]
    assert [len(rows) for rows in subsets] == [4, 7, 16]
    assert ids(subsets[0]) == ids(subsets[1])[:4] and ids(subsets[1]) == ids(subsets[2])[:7]
    assert [row["num_correct"] for row in subsets[2]] == [*range(1, 8), *range(1, 8), 1, 2]
    assert all(row == next(one for one in solved if one["id"] == row["id"]) for row in subsets[2])
    assert not list(folder.glob("*noise*")) and "wrong_label" not in subsets[0][0]


def test_counts_and_budget(model, tmp_path):
    folder = run_subset(config_of(tmp_path))
    counts = json.loads((folder / "counts.json").read_text())
    assert counts["problems"] == 29 and counts["samples"] == 29 * 8
    assert (counts["never_solved"], counts["always_solved"], counts["sometimes_solved"]) == (3, 3, 23)
    assert counts["problems_by_num_correct"] == {"1": 5, **{str(c): 3 for c in range(2, 8)}}
    assert counts["subsets_by_num_correct"]["4"] == {"1": 1, "2": 1, "3": 1, "4": 1}
    assert counts["subsets_by_num_correct"]["16"] == {"1": 3, "2": 3, **{str(c): 2 for c in range(3, 8)}}
    assert counts["verdicts"]["correct"] == sum(SOLVED) and counts["unfinished"] == 29
    assert counts["verdicts"]["wrong"] == 29 * 8 - sum(SOLVED)
    assert json.loads((folder / "budget.json").read_text())["total"]["requests"] == 29 * 8
    assert model.calls == 3


def test_what_a_problem_draws_does_not_depend_on_its_chunk(model, tmp_path):
    run_subset(config_of(tmp_path, "tens"))
    tens, model.seeds = model.seeds, []
    run_subset(config_of(tmp_path, "fours", chunk_size=4))
    assert len(tens) == len(set(tens)) == 29 and model.seeds == tens
    config = config_of(tmp_path, "other")
    run_subset(replace(config, run=replace(config.run, seed=4)))
    assert not set(model.seeds[29:]) & set(tens)


def test_the_label_is_the_wrong_answer_that_most_samples_gave(model, tmp_path, terminal):
    shares = (0.1, 0.3, 0.5, 1.0)
    folder = run_subset(config_of(tmp_path, noise="most_frequent_wrong", shares=shares))
    assert "problem 29 of 29" in terminal.text()
    wrong = {row["id"]: row["wrong_label"] for row in read_rows(str(folder / "subset-16.jsonl"))}
    solved = {row["id"]: row["num_correct"] for row in read_rows(str(folder / "solved.jsonl"))}
    # said from sample c on, c = 1 to 7: 7 3 3 2 2 1 2; at c = 6 two have one vote each
    assert {label for i, label in wrong.items() if solved[i] == 6} <= {"1", "2"}
    assert {label for i, label in wrong.items() if solved[i] != 6} == {"2"}
    for size in (4, 7, 16):
        before = set()
        for share in shares:
            rows = read_rows(str(folder / f"subset-{size}-noise-{share}.jsonl"))
            hit = {row["id"] for row in rows if row["corrupted"]}
            assert ids(rows) == ids(read_rows(str(folder / "subset-16.jsonl")))[:size]
            assert len(hit) == int(share * size + 1e-9) and before <= hit
            assert all(r["label"] == (wrong[r["id"]] if r["id"] in hit else "70") for r in rows)
            before = hit


def test_noisy_files_are_trained_on_through_their_label_column(model, tmp_path):
    folder = run_subset(config_of(tmp_path, noise="most_frequent_wrong", shares=(0.5,)))
    data = DataConfig(path=str(folder / "subset-16-noise-0.5.jsonl"), solution_column="label")
    problems = load_problems(data)
    assert Counter(p.solution == "70" for p in problems) == {True: 8, False: 8}
    assert {p.columns["gold"] for p in problems} == {"70"} and problems[0].question.startswith("q")


def test_random_labels_are_gold_answers_of_other_problems(model, tmp_path):
    path = tmp_path / "problems.jsonl"
    rows = [{"question": f"q{k} r{k % 9}", "answer": "70" if k % 2 else f"{k}/2"} for k in range(40)]
    config = config_of(tmp_path, noise="random", shares=(1.0,), sizes=(3, 8))
    write_jsonl(path, rows)
    folder = run_subset(config)
    small = {row["question"]: row for row in read_rows(str(folder / "subset-3-noise-1.0.jsonl"))}
    for row in read_rows(str(folder / "subset-8-noise-1.0.jsonl")):
        assert (
            row["corrupted"] and row["label"] != row["gold"] and row["label"] in {r["answer"] for r in rows}
        )
        assert row["question"] not in small or small[row["question"]]["label"] == row["label"]


def test_a_kill_loses_a_chunk_and_changes_nothing(model, monkeypatch, tmp_path):
    options = {"noise": "most_frequent_wrong", "shares": (0.5,)}
    whole = run_subset(config_of(tmp_path, "whole", **options))
    child = os.fork()
    if child == 0:
        try:
            dying = KnownModel(lambda number: os.kill(os.getpid(), signal.SIGKILL) if number == 3 else None)
            stage.build_engine = lambda *asked: dying
            run_subset(config_of(tmp_path, "killed", **options))
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    progress = tmp_path / "killed/progress.jsonl"
    assert len(progress.read_text().splitlines()) == 2 and not (tmp_path / "killed/solved.jsonl").exists()
    with progress.open("a") as file:
        file.write('{"items": "torn')
    before = model.calls
    killed = run_subset(config_of(tmp_path, "killed", **options))
    assert model.calls == before + 1
    own = {"environment.json", "metrics.jsonl"}
    names = sorted(path.name for path in whole.glob("*.json*") if path.name not in own)
    assert len(names) == 10 and names == sorted(
        path.name for path in killed.glob("*.json*") if path.name not in own
    )
    assert all((killed / name).read_bytes() == (whole / name).read_bytes() for name in names)
    first, second = (
        [{name: line[name] for name in line if not name.startswith("time/")} for line in read_metrics(folder)]
        for folder in (whole / "metrics.jsonl", killed / "metrics.jsonl")
    )
    assert [line["step"] for line in first] == [10, 20, 29] and first == second


def test_an_answer_that_the_grader_could_not_read_is_no_label():
    given = {"wrong": 1, "unreadable": 4, "timeout": 3, "error": 3, "no_answer": 5, "correct": 6}
    answers = [{"answer": f"a{k}", "count": n, "verdict": v} for k, (v, n) in enumerate(given.items())]
    assert wrong_votes({"answers": answers}) == {"a0": 1}


def test_labels_differ_both_ways_in_the_graders_eyes():
    asked = []

    class Grader:
        def stating(self, answer):
            return f"\\boxed{{{answer}}}"

        def grade(self, pairs):
            asked.extend(pairs)
            return [Verdict.WRONG if "2" in text else Verdict.TIMEOUT for text, _ in pairs]

    differ = cached(partial(surely_differ, Grader()))
    assert list(differ([("2", "12"), ("2", "1"), ("3", "2")])) == [True, False, False]
    assert asked[0] == (r"\boxed{2}", "12") and (r"\boxed{12}", "2") in asked and len(asked) == 6
    assert list(differ([("3", "2"), ("2", "12")])) == [False, True] and len(asked) == 6


def test_too_few_problems_that_are_sometimes_solved(model, tmp_path):
    with pytest.raises(
        ValueError,
        match=r"\[subset\] sizes: expected at most 23, the problems with 1 to 7 correct rollouts of 8",
    ):
        run_subset(config_of(tmp_path, sizes=(4, 24)))
    assert len(read_rows(str(tmp_path / "run/solved.jsonl"))) == 29  # what was found out is not lost


def test_too_few_wrong_labels(model, monkeypatch, tmp_path):
    monkeypatch.setattr(KnownModel, "sample", only_right_or_silent)
    options = {"noise": "most_frequent_wrong", "shares": (0.25,)}
    with pytest.raises(ValueError, match=r"\[noise\] share: expected at most 0 of 4 items"):
        run_subset(config_of(tmp_path, sizes=(4,), **options))


def only_right_or_silent(self, prompt, j):
    right = int(self.tokenizer.decode(prompt, skip_special_tokens=True).partition(" r")[2])
    text = r"\boxed{70}" if j < right else "hm"
    return Completion(token_ids=[5], logprobs=[], finish_reason="stop", text=text)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"sizes": ()}, r"\[subset\] sizes: expected rising numbers > 0, got \(\)"),
        ({"sizes": (8, 8)}, r"\[subset\] sizes: expected rising"),
        ({"sizes": (0, 8)}, r"\[subset\] sizes: expected rising"),
        ({"num_samples": 1}, r"\[subset\] num_samples: expected >= 2, got 1"),
        ({"chunk_size": 0}, r"\[subset\] chunk_size: expected > 0, got 0"),
        ({"shares": (0.1,)}, r"\[subset\] noise: expected most_frequent_wrong or random, since shares"),
        ({"noise": "random", "shares": (0.0,)}, r"\[subset\] shares: expected rising numbers in \(0, 1\]"),
        ({"noise": "random", "shares": (0.5, 0.1)}, r"\[subset\] shares: expected rising"),
        ({"noise": "random", "shares": (float("nan"),)}, r"\[subset\] shares: expected rising"),
    ],
)
def test_options_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        SubsetConfig(**options)


def test_the_configuration_round_trips(tmp_path):
    config = SubsetConfig(
        sizes=(8, 2048), noise="random", shares=(0.1, 0.9), sampling=SamplingConfig(stop=("\n",), top_k=5)
    )
    assert from_dict(to_dict(config)) == config
    (tmp_path / "recipe.yaml").write_text(to_yaml(config))
    assert load_config(str(tmp_path / "recipe.yaml")) == config
    assert load_config(str(tmp_path / "recipe.yaml"), ["--sizes", "4", "6"]).sizes == (4, 6)
    assert SubsetConfig().sampling == SamplingConfig(temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=2048)


def test_what_can_not_run_is_refused_before_a_model_is_loaded(checkpoints, tmp_path):
    model = CheckpointConfig(path=str(checkpoints["qwen3"]))
    config = config_of(tmp_path, model=model, sampling=SamplingConfig(max_new_tokens=16))
    check_subset(config)
    with pytest.raises(ValueError, match=r"\[subset\] sizes: expected at most 29, the problems of data.path"):
        check_subset(replace(config, sizes=(8, 30)))
    with pytest.raises(ValueError, match=r"\[model\] path: expected a model that holds"):
        check_subset(replace(config, sampling=SamplingConfig(max_new_tokens=512)))
    with pytest.raises(ValueError, match=r"\[model\] path: expected a model folder"):
        check_subset(replace(config, model=CheckpointConfig()))
    with pytest.raises(FileNotFoundError, match=r"\[data\] path: expected an existing file"):
        check_subset(replace(config, data=DataConfig(path=str(tmp_path / "none.jsonl"))))
    taken = tmp_path / "taken.jsonl"
    taken.write_text('{"question": "q", "answer": "1", "label": "2", "gold": "3"}\n')
    with pytest.raises(ValueError, match=r"\[data\] .*taken.jsonl row 1: expected no column gold, label"):
        check_subset(replace(config, sizes=(1,), data=DataConfig(path=str(taken))))


def test_values_that_json_does_not_have_are_refused(checkpoints, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet

    table = pa.table({"question": ["q"], "answer": ["1"], "image": [b"\x00"]})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    config = config_of(tmp_path, sizes=(1,), model=CheckpointConfig(path=str(checkpoints["qwen3"])))
    data = DataConfig(path=str(tmp_path / "rows.parquet"))
    with pytest.raises(
        ValueError, match=r"rows.parquet row 1: expected values that JSON can hold, got .*bytes"
    ):
        check_subset(replace(config, data=data))


def test_a_real_engine_that_solves_nothing(checkpoints, tmp_path):
    config = config_of(
        tmp_path, model=CheckpointConfig(path=str(checkpoints["llama"])), sizes=(1,), num_samples=2,
        sampling=SamplingConfig(max_new_tokens=4, temperature=1.0, top_p=1.0, top_k=0),
    )  # fmt: skip
    with pytest.raises(
        ValueError,
        match=r"\[subset\] sizes: expected at most 0, the problems with 1 to 1 correct rollouts of 2",
    ):
        run_subset(config)
    counts = json.loads((tmp_path / "run/counts.json").read_text())
    assert counts["never_solved"] == 29 and counts["samples"] == 58 and counts["verdicts"]["correct"] == 0


@pytest.mark.skipif(not TINY.is_dir(), reason="the tiny world has not been made; `make demo` makes it")
def test_the_tiny_worlds_generator(tmp_path):
    config = SubsetConfig(
        run=RunConfig(dir=str(tmp_path / "run"), device="cpu"),
        model=CheckpointConfig(path=str(TINY / "generator")),
        data=DataConfig(path=str(TINY / "train.jsonl"), limit=48),
        num_samples=8,
        sizes=(8, 16),
        noise="most_frequent_wrong",
        shares=(0.3, 0.7),
        sampling=SamplingConfig(temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=96),
        chunk_size=20,
    )
    check_subset(config)
    torch.manual_seed(0)
    folder = run_subset(config)
    rows = read_rows(str(folder / "subset-16-noise-0.7.jsonl"))
    assert sum(row["corrupted"] for row in rows) == 11
    assert all(row["label"] != row["gold"] for row in rows if row["corrupted"])
    assert all(0 < row["num_correct"] < 8 for row in rows)
    again = run_subset(replace(config, run=replace(config.run, dir=str(tmp_path / "again"))))
    for name in ("solved.jsonl", "subset-8-noise-0.3.jsonl", "counts.json", "budget.json"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()
