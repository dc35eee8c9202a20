"""The study's arms differ only in the reward's form; its tables are means over seeds."""

import json
from dataclasses import replace
from typing import get_args

import pytest

from bench.study_tracelift import SHOWN, judge_table, table
from fastrl.config.uplift import Form
from fastrl.tiny.reproduce import tracelift
from fastrl.tiny.reproduce.tracelift import FORMS, TraceliftStudy
from fastrl.tiny.tracelift.config import LiftConfig

RESULTS = {"groups": "g", "reward_model": "rm"}


def test_arms_differ_only_in_the_form(tmp_path):
    study = TraceliftStudy("math", 3, 7, 4, tmp_path, LiftConfig())
    arms = {form: study.arm(form, RESULTS) for form in FORMS}
    assert set(arms) == set(get_args(Form)) == {"product", "execution", "quality", "uplift", "sum"}
    for form, config in arms.items():
        assert (config.uplift.form, config.uplift.reward_model) == (form, "rm")
        assert (config.train.num_steps, config.run.seed, config.run.device) == (7, 3, "cpu")
        assert config.run.dir == str(tmp_path / f"{form}-7")
        assert config.model.path == str(tmp_path / "world/planner")
        assert config.uplift.executor.model.path == str(tmp_path / "world/executor")
        plain = replace(config, run=arms["sum"].run, uplift=replace(config.uplift, form="sum"))
        assert plain == arms["sum"]


@pytest.mark.parametrize("task", ["math", "code"])
def test_every_path_is_in_the_seeds_own_world(task, tmp_path):
    pipeline = TraceliftStudy(task, 0, 1, 4, tmp_path, LiftConfig()).pipeline()
    assert pipeline.groups.data.path == str(tmp_path / f"world/{task}-seeds.jsonl")
    assert pipeline.rl.eval.path == str(tmp_path / f"world/{task}-test.jsonl")
    assert pipeline.rl.uplift.executor.task == task


def test_an_assessment_is_made_once(tmp_path, monkeypatch):
    asked = []

    def assess(planner, executors, recipe, **options):
        asked.append((planner, sorted(executors), options))
        return {"trace/leak": 0.5}

    monkeypatch.setattr(tracelift, "assess_lift", assess)
    study = TraceliftStudy("math", 2, 1, 4, tmp_path, LiftConfig())
    for _ in range(2):
        assert study.assessed("before", lambda: tmp_path / "planner") == {"trace/leak": 0.5}
    options = {"num_problems": 4, "seed": 2}
    assert asked == [(tmp_path / "planner", ["executor", "held_out_executor"], options)]
    assert json.loads((tmp_path / "assessed/before-4.json").read_text()) == {"trace/leak": 0.5}


def test_tables_by_hand():
    def seed(value, pairs, kinds):
        metrics = {"pair_accuracy": pairs, "group_accuracy": 0.5} | {
            f"{name}/{kind}": pairs for name in ("pair_accuracy", "group_accuracy") for kind in kinds
        }
        arm = dict.fromkeys(SHOWN, value)
        return {"before": arm, "product": arm, "reward_model": {"metrics": metrics}}

    seeds = [seed(0.25, 0.5, ["leap"]), seed(0.75, 1.0, ["leap", "start"])]
    lines = table(seeds, ["before", "product"]).splitlines()
    assert lines[0].split() == ["before", "product"] and len(lines) == 1 + len(SHOWN)
    assert lines[1].split() == ["two_stage/executor", *["0.500", "(0.25", "0.75)"] * 2]
    # a kind that only one seed's groups hold is that seed's
    assert [line.split() for line in judge_table(seeds).splitlines()] == [
        ["all", "pairs", "0.750", "groups", "0.500"],
        ["leap", "pairs", "0.750", "groups", "0.750"],
        ["start", "pairs", "1.000", "groups", "1.000"],
    ]
