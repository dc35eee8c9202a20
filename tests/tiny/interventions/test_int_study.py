"""The study's arms start alike and spend alike; its tables are means over seeds. Nothing is trained here."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from jsonl import write_jsonl

from bench.study_int import arm_table, cell_table, intervention_table, over_seeds
from fastrl.config import RlConfig, SftConfig
from fastrl.data.rows import read_rows
from fastrl.tiny.interventions.config import IntConfig
from fastrl.tiny.interventions.make import IntWorld
from fastrl.tiny.reproduce import interventions
from fastrl.tiny.reproduce.interventions import ARMS, CELLS, InterventionStudy, mean_of
from fastrl.training.progress import write_rows

TOKENS = {"int": 100, "rl": 50, "reference": 200, "hint": 100, "reflection": 100}
MESSAGES = [{"role": "user", "content": "7+5*3-2"}]
HARD = {
    "messages": MESSAGES, "question": "7+5*3-2", "solution": "4", "expression": "7+5*3-2",
    "reference": "7+5>2\n2*3>6\n6-2>4\n\\boxed{4}",
    "attempts": [{"text": "7+5=2\n2*3=5\n5-2=3\n\\boxed{3}"}] * 2,
}  # fmt: skip
CANDIDATE = {
    "problem": 0, "attempt": 0, "sample": 0, "outcome": "selected", "location": 2, "content": "2*3=6",
    "success": 1.0, "success_original": 0.0, "success_prefix": 0.5, "check": "c", "gain": 1.0,
}  # fmt: skip


def step_lines(config):
    name = Path(config.run.dir).name.removeprefix("rl-")
    for step in range(1, config.train.num_steps + 1):
        # every arm's answers grow longer after its tenth step
        tokens = TOKENS[name] * (1 if step <= 10 else 2)
        yield {"step": step, "num_tokens": tokens, "frac_reward_zero_std": 0.5, "entropy": 0.1}


@pytest.fixture
def study(tmp_path, monkeypatch):
    ran = []

    def run_stage(config):
        ran.append(config)
        folder = Path(config.run.dir)
        folder.mkdir(parents=True, exist_ok=True)
        lines = (
            list(step_lines(config))
            if isinstance(config, RlConfig)
            else [{"step": 0, "base/nll": 0.25, "base/entropy": 0.5}, {"step": 9, "entropy": 0.75}]
        )
        write_jsonl(folder / "metrics.jsonl", lines)
        return folder / "checkpoints" / "last"

    world = IntWorld(tmp_path / "world")
    monkeypatch.setattr(interventions, "build_int_world", lambda config, cache: world)
    monkeypatch.setattr(interventions, "run_stage", run_stage)
    monkeypatch.setattr(
        interventions, "assess_solver", lambda checkpoint, problems, table, **o: {"avg@2": 0.5}
    )
    made = InterventionStudy(7, 20, 4, 2, tmp_path / "7", IntConfig())
    for name, tokens in (("hard_set", 9999), ("intervene", 1000)):
        (made.folder / name).mkdir(parents=True)
        (made.folder / name / "budget.json").write_text(json.dumps({"total": {"sampled_tokens": tokens}}))
    write_rows(made.folder / "hard_set" / "hard.jsonl", [HARD])
    write_rows(made.folder / "intervene" / "sft.jsonl", [{"prompt": MESSAGES}])
    return made, ran


def test_every_arm_spends_what_int_spends(study):
    made, _ = study
    found = {arm: made.arm(arm) for arm in ("int", "rl", "reference", "hint")}
    # int: 1000 for interventions, 10 steps of 100 and 10 of 200 tokens
    assert found["int"]["tokens"] == {"before_rl": 1000, "rl": 3000, "all": 4000, "allowed": 4000}
    assert found["int"]["rl"]["steps"] == 20
    # the others by the mean of their first ten steps
    steps = {arm: found[arm]["rl"]["steps"] for arm in ("rl", "reference", "hint")}
    assert steps == {"rl": 4000 / 50, "reference": 4000 / 200, "hint": 4000 / 100}
    assert {found[arm]["tokens"]["allowed"] for arm in found} == {4000}
    assert found["reference"]["sft"] == {
        "rows": 1.0, "steps": 9.0, "base/nll": 0.25, "base/entropy": 0.5, "entropy": 0.75
    }  # fmt: skip
    assert "sft" not in found["rl"] and "sft" not in found["hint"]


def test_what_an_arm_sampled_before_rl_is_charged(study):
    made, _ = study
    folder = made.folder / "reflection"
    folder.mkdir()
    write_rows(folder / "rows.jsonl", [{"prompt": "p", "completion": "c"}])
    (folder / "budget.json").write_text(json.dumps({"total": {"sampled_tokens": 1500}}))
    tokens = made.arm("reflection")["tokens"]
    assert (tokens["before_rl"], tokens["allowed"]) == (1500, 4000)
    assert len(made.steps_of("reflection")) == (4000 - 1500) / 100


def test_arms_differ_only_in_their_start_and_problems(study):
    made, ran = study
    for arm in ("int", "rl", "reference", "hint"):
        made.arm(arm)
    last = {Path(c.run.dir).name: c for c in ran}
    reinforced = {name: c for name, c in last.items() if isinstance(c, RlConfig)}
    plain = RlConfig()
    same = [
        replace(c, run=plain.run, model=plain.model, data=plain.data, train=plain.train)
        for c in reinforced.values()
    ]
    assert same == [same[0]] * 4
    solver, hard = str(made.world.solver), str(made.folder / "hard_set" / "hard.jsonl")
    start = {name: (c.model.path, c.data.path) for name, c in reinforced.items()}
    assert start == {
        "rl-int": (str(made.folder / "sft-int/checkpoints/last"), hard),
        "rl-rl": (solver, hard),
        "rl-reference": (str(made.folder / "sft-reference/checkpoints/last"), hard),
        "rl-hint": (solver, str(made.folder / "hint/rows.jsonl")),
    }
    assert {c.run.seed for c in last.values()} == {7}
    taught = [c for c in last.values() if isinstance(c, SftConfig)]
    assert {c.model.path for c in taught} == {solver} and {c.train.num_steps for c in taught} == {60}
    hinted = read_rows(str(made.folder / "hint" / "rows.jsonl"))
    assert [row["prompt"][0]["content"] for row in hinted] == ["7+5*3-2", "7+5*3-2\n7+5>2\n2*3>6"]


def test_cells_differ_in_what_is_cloned(study):
    made, ran = study
    rows = [
        CANDIDATE | {"outcome": "leak"},
        CANDIDATE | {"sample": 1, "outcome": "no_success", "content": "2*3=7"},
        CANDIDATE | {"sample": 2},
        CANDIDATE | {"attempt": 1, "outcome": "no_tag", "location": None, "content": None},
    ]
    write_rows(made.folder / "intervene" / "interventions.jsonl", rows)
    (unfiltered,) = read_rows(str(made.sft_rows("unfiltered")))
    assert (unfiltered["prefix"], unfiltered["completion"], unfiltered["end"]) == ("7+5=2\n", "2*3=7", False)
    made.cell("kept"), made.cell("no_prefix"), made.cell("unfiltered")
    kept, no_prefix, all_of_them = ran
    assert (kept.prefix_weight, no_prefix.prefix_weight, all_of_them.prefix_weight) == (1.0, 0.0, 1.0)
    assert kept.data == no_prefix.data and kept.data.path.endswith("intervene/sft.jsonl")
    assert all_of_them.data.path == str(made.folder / "unfiltered" / "rows.jsonl")
    assert len({c.run.dir for c in ran}) == 3 and set(CELLS) == {"kept", "unfiltered", "no_prefix", "suffix"}


def test_numbers_over_seeds():
    assert over_seeds([0.25, 0.75]) == "0.500 (0.250 0.750)"
    assert over_seeds([1.0, None]) == "-"
    assert mean_of("entropy", [{"entropy": 0.25}, {}, {"entropy": None}, {"entropy": 0.75}]) == 0.5
    assert mean_of("entropy", [{"step": 1}]) is None


def test_tables_by_hand():
    def seed(value):
        numbers = {"avg@64": value, "pass@4": value, "entropy": value}
        arm = {"after": numbers, "rl": {"steps": 10.0}, "tokens": {"all": 7}}
        cell = {"sft": {"rows": 3.0}, "hard": numbers, "test": numbers}
        efficacy = {"prefix": {"mean_success": value, "problems_covered": 1.0, "problems": 4.0}}
        return {
            "before": numbers, "arms": {"int": arm, "rl": arm}, "cells": {"kept": cell},
            "quality": {"read/count": 4.0, "read/exact": value}, "funnel": {"efficacy": efficacy},
        }  # fmt: skip

    seeds = [seed(0.25), seed(0.75)]
    lines = [line.split() for line in arm_table(seeds, ["int", "rl"], 64).splitlines()]
    assert lines[0] == ["before", "int", "rl"]
    assert lines[1] == ["avg@64", *["0.500", "(0.250", "0.750)"] * 3]
    assert ["RL", "steps", *["10", "(10", "10)"] * 2] in lines
    assert ["tokens", *["7", "(7", "7)"] * 2] in lines
    cells = [line.split() for line in cell_table(seeds, ["kept"], 64).splitlines()]
    assert ["hard", "avg@64", "0.500", "(0.250", "0.750)"] in cells and ["rows", "3", "(3", "3)"] in cells
    told = [line.split() for line in intervention_table(seeds).splitlines()]
    assert told[1] == ["read", "4", "(4", "4)", "0.500", "(0.250", "0.750)", "-", "-"]
    assert told[-1] == ["prefix", "0.500", "(0.250", "0.750)", "1", "(1", "1)", "4", "(4", "4)"]
    assert set(ARMS) == {"int", "rl", "reference", "reflection", "hint"}
