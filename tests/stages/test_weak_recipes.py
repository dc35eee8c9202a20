"""The weak-*-tiny recipes end to end, in a world whose generator answers with any digit."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import yaml
from small_world import CONFIG as PLAIN

from fastrl.check import check_config
from fastrl.config.load import from_dict, load_config, recipe_names, to_yaml
from fastrl.stages.pipeline import check_pipeline, first_model
from fastrl.tiny.weak import make as weak_world
from fastrl.tiny.weak.config import WeakConfig
from fastrl.tiny.weak.make import build_weak_world
from fastrl.tiny.world.notation import write_answer
from fastrl.tiny.world.teach import finish
from fastrl.train import run_recipe, run_stage

SETTINGS = ("scarce", "noise", "majority", "selfcertainty", "2x2")
FEWER = {
    "num_steps": 2, "warmup_steps": 1, "learning_rate": 1e-5, "num_prompts": 2, "group_size": 2,
    "max_new_tokens": 8, "num_samples": 8, "limit": 40, "batch_size": 2, "every": 0, "sizes": [5],
    "workers": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Its base is the generator, too: SFT of two steps teaches nobody to answer."""

    def learn_here(recipe, target):
        run_stage(load_config(str(recipe)))
        finish(SimpleNamespace(wait=lambda: 0), recipe.parent, target)

    def any_digit(config, chain, random):
        return {"prompt": chain.expression, "completion": write_answer(random.randrange(10))}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weak_world, "learn", learn_here)
        patch.setattr(weak_world, "weak_row", any_digit)
        plain = replace(PLAIN, generator=replace(PLAIN.generator, num_steps=80))
        config = WeakConfig(world=plain, num_texts=5, num_traces=30)
        made = build_weak_world(config, tmp_path_factory.mktemp("world"))
    shutil.rmtree(made.base)
    for name in ("weak-mixed", "weak-base"):
        shutil.copytree(made.generator, made.folder / name)
    return made.folder


def reduced(name, world, folder, without=()):
    """The recipe in this world, with a few steps of few and short rollouts.

    Args:
        without: ends of the names of stages that are left out.
    """

    def shrunk(node):
        if isinstance(node, dict):
            return {
                key: FEWER[key] if key in FEWER and value is not None else shrunk(value)
                for key, value in node.items()
            }
        if isinstance(node, str):
            node = node.replace("tiny-world", str(world))
            return node.replace("subset-8.", "subset-5.").replace("subset-64.", "subset-5.")
        return node

    data = shrunk(yaml.safe_load(to_yaml(load_config(name))))
    data = {key: value for key, value in data.items() if not key.endswith(without)} if without else data
    data["run"] |= {"dir": str(folder), "device": "cpu"}
    return from_dict(data)


def metrics_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").open()]


def test_every_setting_has_a_recipe_of_both_sizes():
    names = {f"weak-{setting}{size}" for setting in SETTINGS for size in ("", "-tiny")} | {"weak-smol"}
    assert {name for name in recipe_names() if name.startswith("weak-")} == names


@pytest.mark.parametrize("name", ["weak-scarce-tiny", "weak-noise-tiny", "weak-2x2-tiny"])
def test_pipelines_are_checked_before_anything_runs(name, world, tmp_path):
    check_pipeline(reduced(name, world, tmp_path / "run"), check_config)
    assert not (tmp_path / "run").exists()


def test_a_model_trained_from_a_trained_one_is_traced_back():
    for size, base in (("-tiny", "tiny-world/weak-base"), ("", "meta-llama/Llama-3.2-3B")):
        stages = load_config(f"weak-2x2{size}").stages
        for arm in ("base_thinking", "base_plain", "cpt_thinking", "cpt_plain"):
            assert first_model(stages, f"sft_{arm}") == first_model(stages, f"rl_{arm}") == base


@pytest.mark.parametrize("name", ["weak-majority-tiny", "weak-selfcertainty-tiny"])
def test_a_proxy_is_trained_on_and_the_hidden_gold_is_logged(name, world, tmp_path):
    run_recipe(reduced(name, world, tmp_path / "run"))
    lines = metrics_of(tmp_path / "run")
    assert [line["step"] for line in lines] == [0, 1, 2]
    assert all("rewards/answer/mean" in line and "alarm/collapse" in line for line in lines[1:])
    assert "eval/avg@8" in lines[0] and "eval/avg@8" in lines[2]


@pytest.mark.parametrize("name", ["weak-scarce-tiny", "weak-noise-tiny"])
def test_a_subset_then_rl(name, world, tmp_path):
    run_recipe(reduced(name, world, tmp_path / "run"))
    rows = [json.loads(line) for line in (tmp_path / "run/subset/subset-5.jsonl").open()]
    assert len(rows) == 5 and all(0 < row["num_correct"] < 8 for row in rows)
    noisy = name == "weak-noise-tiny"
    lines = metrics_of(tmp_path / "run/rl")[1:]
    assert len(lines) == 2 and all("rewards/answer/mean" in line for line in lines)
    assert all(("labels/corrupted" in line) == noisy for line in lines)
    if noisy:
        assert all(row["wrong_label"] != row["gold"] for row in rows)


def test_pre_training_then_sft_then_rl(world, tmp_path):
    """Two of the four arms; all are checked above."""
    run_recipe(reduced("weak-2x2-tiny", world, tmp_path / "run", without=("base_plain", "cpt_thinking")))
    words = {}
    for arm in ("base_thinking", "cpt_plain"):
        assert [line["step"] for line in metrics_of(tmp_path / "run" / f"rl_{arm}")] == [0, 1, 2]
        words[arm] = metrics_of(tmp_path / "run" / f"sft_{arm}")[0]["num_tokens"]
    # \boxed{, a digit, } and the end, twice
    assert words["cpt_plain"] == 2 * 4 and words["base_thinking"] > 2 * 20
