"""Interventions end to end on a model with known checks: results, cost, resume after a kill."""

import json
import re
import signal
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from forked import run_forked
from intervention_world import CHECKED, PROBLEMS, TERSE, hard_set_config, intervene_config, write_rows
from jsonl import read_jsonl
from killed import run_killed
from transformers import AutoTokenizer

from fastrl.check.intervene import check_intervene
from fastrl.config import DataConfig, InterveneConfig, StepsConfig
from fastrl.config.load import from_dict, to_dict, to_yaml
from fastrl.data.prompts import encode_inside, render_prompt
from fastrl.methods.interventions.candidates import Candidate
from fastrl.methods.interventions.page import page
from fastrl.methods.interventions.problems import hard_problem
from fastrl.stages import hard_set
from fastrl.stages import intervene as intervene_stage
from fastrl.stages.hard_set import run_hard_set
from fastrl.stages.intervene import run_intervene

FILES = ("interventions.jsonl", "sft.jsonl", "funnel.json", "budget.json", "page.html")
OUTCOMES = {
    "2+3+4": "selected", "1+6+2+5": "selected", "8+3": "leak", "3+3+1": "out_of_range", "5+2+2": "no_success"
}  # fmt: skip


def read(path):
    return read_jsonl(path)


def contents(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def hard(fixed_model, tmp_path_factory):
    return run_hard_set(hard_set_config(fixed_model, tmp_path_factory.mktemp("hard"))) / "hard.jsonl"


@pytest.fixture
def config(fixed_model, hard, tmp_path):
    return intervene_config(fixed_model, tmp_path, hard)


def test_from_failed_attempts_to_interventions(config, capsys):
    check_intervene(config)
    folder = run_intervene(config)
    assert "problem 5/5 | candidates" in capsys.readouterr().err
    rows = read(folder / "interventions.jsonl")
    assert [(row["problem"], row["attempt"], row["sample"]) for row in rows] == [
        (problem, 0, sample) for problem in range(5) for sample in range(2)
    ]
    for number, question in enumerate(CHECKED):
        first, second = rows[2 * number : 2 * number + 2]
        assert first["outcome"] == OUTCOMES[question]
        same = question in ("8+3", "3+3+1")  # these never came to be compared
        assert second["outcome"] == (OUTCOMES[question] if same else "duplicate")
        if question != "3+3+1":
            assert (first["location"], first["content"]) == PROBLEMS[question][3]
    measured = [(r["success"], r["success_original"], r["success_prefix"], r["gain"]) for r in rows[::2]]
    right, wrong, none = (1.0, 0.0, 0.0, 1.0), (0.0, 0.0, 0.0, 0.0), (None,) * 4
    assert measured == [right, right, none, none, wrong]
    funnel = json.loads((folder / "funnel.json").read_text())
    assert list(funnel.values())[:13] == [5, 5, 0, 0, 10, 8, 6, 3, 3, 2, 2, 2, 2]
    assert funnel["efficacy"]["prefix + intervention"]["problems_covered"] == 2


def test_what_is_taught_ends_before_the_wrong_step(config):
    taught = read(run_intervene(config) / "sft.jsonl")
    assert [(row["prompt"][0]["content"], row["prefix"], row["completion"]) for row in taught] == [
        ("2+3+4", "", "2+3=5"),
        ("1+6+2+5", "1+6=7\n", "7+2=9"),
    ]
    for row in taught:
        attempt = PROBLEMS[row["question"]][1]
        wrong = attempt.split("\n")[row["location"] - 1]
        assert wrong not in row["prefix"] + row["completion"]
        assert "<|end|>" not in row["completion"]


def test_prefixes_are_computed_once_and_everything_is_charged(config):
    config = replace(config, chunk_size=5)
    budget = json.loads((run_intervene(config) / "budget.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(config.model.path)
    nodes = set()
    for question, location in (("2+3+4", 1), ("1+6+2+5", 2), ("5+2+2", 1)):
        attempt = PROBLEMS[question][1].split("\n")
        prompt = render_prompt(tokenizer, [{"role": "user", "content": question}])
        before = attempt[: location - 1]
        for arm in ([*before, PROBLEMS[question][3][1]], attempt[:location], before):
            path = [*prompt, *encode_inside(tokenizer, "\n".join(arm))]
            nodes |= {(question, tuple(path[:end])) for end in range(1, len(path) + 1)}
    assert budget["continue"]["requests"] == 3 * 3 * 4
    assert budget["continue"]["prefill_tokens"] == len(nodes)
    assert budget["verify"]["requests"] == 5 * 2
    assert set(budget) == {"verify", "continue", "total"}
    total = sum(budget[name]["sampled_tokens"] for name in ("verify", "continue"))
    assert budget["total"]["sampled_tokens"] == total > 0


def test_first_asks_for_less_than_best(config, tmp_path):
    first = replace(config, filter="success", select="first", run=run_in(config, tmp_path / "first"))
    budget = json.loads((run_intervene(first) / "budget.json").read_text())
    assert budget["continue"]["requests"] == 3 * 4
    rows = read(tmp_path / "first" / "interventions.jsonl")
    assert [row["outcome"] for row in rows[::2]] == list(OUTCOMES.values())
    assert all(row["success_original"] is None for row in rows)
    plain = replace(config, filter="none", select="first", run=run_in(config, tmp_path / "none"))
    folder = run_intervene(plain)
    assert "continue" not in json.loads((folder / "budget.json").read_text())
    assert [row["question"] for row in read(folder / "sft.jsonl")] == ["2+3+4", "1+6+2+5", "5+2+2"]


def run_in(config, folder):
    return replace(config.run, dir=str(folder))


def test_the_full_form_samples_a_solution_a_problem(config, terminal):
    full = replace(TERSE, form="full", verify_template="{steps}", solve_template="{question};{reference}")
    config = replace(config, proposal=full, filter="none", select="first")
    folder = run_intervene(config)  # nobody has taught it this form: any answer will do
    assert "problem 5 of 5" in terminal.text()
    budget = json.loads((folder / "budget.json").read_text())
    assert budget["solve"]["requests"] == 5 and budget["verify"]["requests"] == 10
    spent = [row["sampled_tokens"] for row in budget.values()]
    assert sum(spent[:-1]) == spent[-1]


def test_when_nothing_survives_the_funnel_says_why(config, hard, tmp_path):
    rows = [row for row in read(hard) if row["question"] in ("8+3", "5+2+2")]
    few = replace(config, data=DataConfig(path=write_rows(tmp_path / "few.jsonl", rows)))
    with pytest.raises(
        ValueError,
        match=r"\[intervene\] filter: expected .* passes gain, got none of 4 .*'leak': 2, 'no_success'",
    ):
        run_intervene(few)
    folder = Path(config.run.dir)
    assert (folder / "sft.jsonl").read_text() == ""
    assert json.loads((folder / "funnel.json").read_text())["selected"] == 0


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_model_that_knows_nothing_gets_as_far_as_it_can(checkpoints, tmp_path, family):
    config = hard_set_config(checkpoints[family], tmp_path)
    config = replace(config, sampling=replace(config.sampling, temperature=2.0, max_new_tokens=200))
    folder = run_hard_set(config)
    counts = json.loads((folder / "counts.json").read_text())
    assert counts["hard"] == 6 and counts["verdicts"]["correct"] == 0
    rows = read(folder / "hard.jsonl")
    for number, row in enumerate(rows):  # whatever it said, there is something to check
        row["attempts"] = [*row["attempts"], {"text": f"é {number}\n\n\n$$x$$ 日本"}]
    path = Path(write_rows(tmp_path / "more.jsonl", rows))
    wanted = intervene_config(checkpoints[family], tmp_path, path, select="first", filter="success")
    short = replace(TERSE, temperature=2.0, max_conversation_tokens=150)
    with pytest.raises(ValueError, match="expected at least one intervention that passes success"):
        run_intervene(replace(wanted, proposal=short))
    funnel = json.loads((tmp_path / "intervene" / "funnel.json").read_text())
    attempts = sum(len(row["attempts"]) for row in rows)
    assert funnel["attempts"] == attempts >= 6
    assert funnel["proposals"] == 2 * (attempts - funnel["attempts_too_long"]) > 0
    assert sum(funnel["outcomes"].values()) == funnel["proposals"]


def test_the_same_files_after_a_kill_in_the_middle(config, tmp_path):
    drawn = replace(
        config,
        continuation=replace(config.continuation, temperature=1.5, max_new_tokens=24),
        proposal=replace(TERSE, temperature=0.8),
    )
    whole = contents(run_intervene(replace(drawn, run=run_in(config, tmp_path / "whole"))))
    cut = replace(drawn, run=run_in(config, tmp_path / "cut"))
    (tmp_path / "cut.yaml").write_text(to_yaml(cut))
    died = run_forked(run_killed, str(tmp_path / "cut.yaml"), 2)
    assert died.code == -signal.SIGKILL, died.output
    assert len((tmp_path / "cut" / "progress.jsonl").read_text().splitlines()) == 1
    assert contents(run_intervene(cut)) == whole
    with pytest.raises(ValueError, match=r"\[run\] dir: .*num_continuations differ"):
        run_intervene(replace(cut, num_continuations=5))


def test_what_is_done_loads_no_model_again(config, fixed_model, tmp_path, monkeypatch):
    first = hard_set_config(fixed_model, tmp_path)
    run_hard_set(first)
    before = contents(run_intervene(config))
    for stage in (hard_set, intervene_stage):
        monkeypatch.setattr(stage, "build_engine", lambda *_: pytest.fail("an engine was built"))
    assert run_hard_set(first) == tmp_path / "hard"
    assert contents(run_intervene(config)) == before


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.open, self.items, self.cells = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "li":
            self.items.append((dict(attributes)["class"], ""))
        if tag == "td":
            self.cells.append("")
        if tag not in ("meta",):
            self.open.append(tag)
        assert tag not in ("script", "link", "img")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "li":
            kind, text = self.items[-1]
            self.items[-1] = (kind, text + data)
        if self.open and self.open[-1] == "td":
            self.cells[-1] += data

    @property
    def numbers(self):
        """The tables' rows."""
        return dict(zip(self.cells[::2], self.cells[1::2], strict=True))


def test_the_page_marks_the_first_error_and_escapes_everything(config):
    text = (run_intervene(config) / "page.html").read_text()
    shown = Tags(text)
    assert shown.open == []
    assert not re.search(r"https?://|@import|url\(", text)
    assert "prefers-color-scheme: dark" in text
    second = [item for item in shown.items if "7+2" in item[1] or item[1].startswith(("1. 1+6", "3. 8+5"))]
    assert second == [
        ("kept", "1. 1+6=7"), ("error", "2. 7+2=8"), ("new", "2. 7+2=9"), ("after", "3. 8+5=3")
    ]  # fmt: skip


def test_every_count_adds_up_and_the_page_shows_it(config):
    folder = run_intervene(config)
    funnel = json.loads((folder / "funnel.json").read_text())
    rows, outcomes = read(folder / "interventions.jsonl"), funnel["outcomes"]
    assert outcomes == {"duplicate": 3, "leak": 2, "no_success": 1, "out_of_range": 2, "selected": 2}
    assert sum(outcomes.values()) == funnel["proposals"] == len(rows)
    lost = ("out_of_range", "leak", "duplicate", "no_success")
    left = [funnel[name] for name in ("proposals", "parsed", "no_leak", "distinct", "selected")]
    assert [a - b for a, b in pairwise(left)] == [outcomes[name] for name in lost]
    assert funnel["selected"] == len(read(folder / "sft.jsonl"))
    shown = Tags((folder / "page.html").read_text())
    expected = {name.replace("_", " "): f"{funnel[name]:,}" for name in list(funnel)[:13]}
    expected |= {f"outcomes: {cause.replace('_', ' ')}": str(number) for cause, number in outcomes.items()}
    budget = json.loads((folder / "budget.json").read_text())
    expected |= {f"total: {name.replace('_', ' ')}": f"{n:,}" for name, n in budget["total"].items()}
    assert expected.items() <= shown.numbers.items()
    assert [kind for kind, _ in shown.items].count("error") == 4  # an attempt a problem; one has no place


def test_a_hostile_attempt_stays_text():
    bad = "</li><script>x</script>"
    row = {
        "messages": [{"role": "user", "content": bad}], "question": bad, "solution": bad, "reference": bad,
        "attempts": [{"text": f"{bad}\n\n{bad}\n\n{bad}"}],
    }  # fmt: skip
    made = Candidate(
        problem=0, attempt=0, sample=0, outcome="selected", location=2, content=bad, success=0.5, check=bad
    )
    text = page([hard_problem(0, row, StepsConfig(min_chars=1))], [made], {"outcomes": {bad: 1}}, {})
    shown = Tags(text)
    assert shown.open == []
    assert [kind for kind, _ in shown.items] == ["kept", "error", "new", "after"]
    assert shown.items[2][1] == f"2. {bad}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference": None}, r"row 2: reference: expected text, as hard_set writes it, got None"),
        ({"messages": "q"}, None),
        ({"messages": []}, r"row 2: messages: question: expected text, or a list of messages"),
        ({"attempts": ["text"]}, r"row 2: attempts: expected a list of objects with text, got \['text'\]"),
        ({"attempts": [{"text": " "}]}, "row 2: attempts"),
    ],
)
def test_rows_that_are_no_hard_set_are_refused(config, hard, tmp_path, change, message):
    rows = read(hard)
    rows[1] |= change
    bad = replace(config, data=DataConfig(path=write_rows(tmp_path / "bad.jsonl", rows)))
    if message is None:
        check_intervene(bad)
    else:
        with pytest.raises(ValueError, match=message):
            check_intervene(bad)


def test_nothing_to_intervene_in_is_refused(config, hard, tmp_path):
    rows = [{**row, "attempts": []} for row in read(hard)]
    bad = replace(config, data=DataConfig(path=write_rows(tmp_path / "bad.jsonl", rows)))
    with pytest.raises(
        ValueError, match=r"\[data\] path: expected failed attempts .*sampling.max_new_tokens"
    ):
        check_intervene(bad)
    with pytest.raises(FileNotFoundError, match=r"\[data\] path"):
        check_intervene(replace(config, data=DataConfig(path=str(tmp_path / "nowhere.jsonl"))))
    with pytest.raises(ValueError, match=r"\[proposal\] verify_tokens: expected < 1024, .* got 1024"):
        check_intervene(replace(config, proposal=replace(TERSE, verify_tokens=1024)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"filter": "none"}, r"\[intervene\] select: expected first, since filter none measures nothing"),
        ({"num_continuations": 0}, "num_continuations"),
        ({"chunk_size": 0}, "chunk_size"),
    ],
)
def test_bad_options_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        InterveneConfig(**options)


def test_a_configuration_round_trips():
    config = InterveneConfig(filter="success", select="first", proposal=TERSE, steps=StepsConfig(min_chars=1))
    assert from_dict(to_dict(config)) == config
