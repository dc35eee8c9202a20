"""Pipelines: SFT, then RL from its result, as one recipe; named errors before the first stage starts."""

import pytest
import yaml
from jsonl import write_jsonl

from fastrl.cli.main import main
from fastrl.config import PipelineConfig, RlConfig, SftConfig
from fastrl.config.load import from_dict, load_config, to_dict
from fastrl.runtime.run import read_metrics
from fastrl.train import run_recipe


@pytest.fixture
def recipe(checkpoints, tmp_path):
    """A pipeline's recipe as nested options, its files next to it."""
    rows = [{"prompt": f"{a}+{a}", "completion": str(2 * a), "answer": str(2 * a)} for a in range(8)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    data = {"path": str(tmp_path / "rows.jsonl")}
    return {
        "stage": "pipeline",
        "run": {"dir": str(tmp_path / "run"), "seed": 3, "device": "cpu"},
        "sft": {
            "stage": "sft",
            "model": {"path": str(checkpoints["qwen3"])},
            "data": data,
            "train": {"num_steps": 2},
            "batch_size": 4,
        },
        "rl": {
            "stage": "rl",
            "model": {"path": "@sft"},
            "data": data,
            "rollout": {"num_prompts": 2, "group_size": 2, "max_new_tokens": 4},
            "train": {"num_steps": 1},
            "eval": {"path": data["path"], "num_samples": 1},
        },
    }


def write(recipe, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return str(path)


def test_a_recipe_round_trips_and_flags_reach_its_stages(recipe, tmp_path):
    config = from_dict(recipe)
    assert isinstance(config, PipelineConfig)
    assert [(name, type(stage)) for name, stage in config.stages.items()] == [
        ("sft", SftConfig),
        ("rl", RlConfig),
    ]
    assert from_dict(to_dict(config)) == config
    changed = load_config(write(recipe, tmp_path), ["--rl.train.num_steps", "7", "--run.seed", "5"])
    assert changed.rl.train.num_steps == 7 and changed.run.seed == 5
    assert changed.sft == config.sft


def test_each_stage_finds_what_the_earlier_one_left(recipe, tmp_path, capsys):
    final = run_recipe(from_dict(recipe))
    folder = tmp_path / "run"
    assert final == folder / "rl" / "checkpoints" / "step-000001"
    sft = folder / "sft" / "checkpoints" / "step-000002"
    for name in ("sft", "rl"):
        stage = yaml.safe_load((folder / name / "config.yaml").read_text())
        assert stage["run"]["seed"] == 3 and stage["run"]["device"] == "cpu"
    assert stage["model"]["path"] == str(sft)
    said = capsys.readouterr().out
    assert f"sft: {sft}" in said and "eval/avg@1" in said and "->" in said
    # the same pipeline once more: nothing is done again
    before = read_metrics(folder / "rl" / "metrics.jsonl")
    assert run_recipe(from_dict(recipe)) == final
    assert read_metrics(folder / "rl" / "metrics.jsonl") == before
    # more steps are the same pipeline, another learning rate is not
    recipe["rl"]["train"] = {"num_steps": 2}
    assert run_recipe(from_dict(recipe)).name == "step-000002"
    recipe["sft"]["train"]["learning_rate"] = 0.5
    with pytest.raises(ValueError, match=r"holds a pipeline whose sft.train.learning_rate differ"):
        run_recipe(from_dict(recipe))


def test_what_a_later_stage_lacks_is_said_before_the_first_one_starts(recipe, tmp_path):
    recipe["rl"]["data"] = {"path": str(tmp_path / "nothing.jsonl")}
    with pytest.raises(FileNotFoundError, match=r"\[rl.data\] path: expected an existing file"):
        run_recipe(from_dict(recipe))
    assert not (tmp_path / "run").exists()
    assert main(["train", write(recipe, tmp_path), "--dry-run"]) == 2


def test_dry_run_shows_all_stages(recipe, tmp_path, capsys):
    assert main(["train", write(recipe, tmp_path), "--dry-run"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["rl"]["model"]["path"] == "@sft"
    assert not (tmp_path / "run").exists()


def test_a_folder_with_something_else_is_left_unchanged(recipe, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty and holds no pipeline"):
        run_recipe(from_dict(recipe))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"sft": 3}, r"\[recipe\] sft: expected a stage, a mapping of options, got 3"),
        ({"sft": {"stage": "pipeline"}}, r"\[recipe\] sft.stage: expected one of rl, sft, .*got 'pipeline'"),
        (
            {"rl": {"stage": "rl", "model": {"path": "@sfft"}}},
            r"\[rl.model\] path: expected one of @sft, got",
        ),
        (
            {"sft": {"stage": "sft", "model": {"path": "@rl"}}},
            r"\[sft.model\] path: expected a path, since no",
        ),
        ({"rl": {"stage": "rl", "run": {"seed": 4}}}, r"\[rl.run\] seed: expected nothing, since run.seed"),
        ({"rl": {"stage": "rl", "trian": {}}}, r"\[recipe\] rl.trian: expected a known option"),
    ],
)
def test_a_wrong_pipeline_is_refused_by_name(recipe, change, message):
    with pytest.raises(ValueError, match=message):
        from_dict({**recipe, **change})


def test_a_pipeline_needs_a_stage():
    with pytest.raises(ValueError, match="at least one stage"):
        from_dict({"stage": "pipeline", "run": {"dir": "x"}})
