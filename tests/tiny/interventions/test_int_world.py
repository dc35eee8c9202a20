"""InT's world after a few training steps: files, cache, export; no held-out problem is trained on."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from small_world import CONFIG as PLAIN
from transformers import AutoModelForCausalLM

from fastrl.config.load import load_config
from fastrl.data.splits import split_of
from fastrl.tiny.folders import export
from fastrl.tiny.interventions import make as int_world
from fastrl.tiny.interventions.config import IntConfig
from fastrl.tiny.interventions.examples import meets
from fastrl.tiny.interventions.make import build_int_world, copy_int_world, hard_chains, int_key
from fastrl.tiny.world.task import Chain
from fastrl.tiny.world.teach import finish
from fastrl.tiny.world.traces import wrong_entries
from fastrl.train import run_stage

CONFIG = IntConfig(world=replace(PLAIN, style_shares=(1.0, 0.0, 0.0), num_wrong_entries=18))
LEARNT = []


def learn_here(recipe, folder):
    """As teach.learn, in this process; other tests start processes."""
    LEARNT.extend(json.loads(line)["prompt"] for line in (recipe.parent / "examples.jsonl").open())
    run_stage(load_config(str(recipe)))
    finish(SimpleNamespace(wait=lambda: 0), recipe.parent, folder)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr(int_world, "learn", learn_here)


def rows_of(path):
    return [json.loads(line) for line in path.open()]


def test_the_world_is_made_of_the_ecosystems_files(cache):
    made = build_int_world(CONFIG, cache)
    assert type(AutoModelForCausalLM.from_pretrained(made.solver)).__name__ == "Qwen3ForCausalLM"
    assert len(rows_of(made.solver / "sft_metrics.jsonl")) == 3
    assert {path.name for path in made.folder.iterdir()} == {"solver", "int-train.jsonl", "int-test.jsonl"}
    table = wrong_entries(18, 0)
    for split, path, count in (("train", made.train, 60), ("test", made.test, 20)):
        rows = rows_of(path)
        assert len(rows) == len({row["prompt"] for row in rows}) == count
        for row in rows:
            chain = Chain.parse(row["expression"])
            assert meets(chain, table) and split_of(row["expression"]) == split
            assert row["solution"] == str(chain.answer)
            assert row["reference"].endswith(f"\n\\boxed{{{chain.answer}}}")


def test_nothing_held_out_is_learnt_from(tmp_path):
    LEARNT.clear()
    build_int_world(CONFIG, tmp_path)
    asked = {prompt.split("\n")[0] for prompt in LEARNT}
    assert len(asked) == len(LEARNT) == 3 * 8
    assert {split_of(expression) for expression in asked} == {"train"}


def test_more_hard_chains_begin_with_the_fewer():
    many = hard_chains(CONFIG, 40, "test")
    assert hard_chains(CONFIG, 7, "test") == many[:7] and len(set(many)) == 40


def test_it_is_made_once(cache, monkeypatch):
    made = build_int_world(CONFIG, cache)

    def refuse(*_):
        raise AssertionError("made again")

    monkeypatch.setattr(int_world, "make_int", refuse)
    assert build_int_world(CONFIG, cache) == made
    with pytest.raises(AssertionError, match="made again"):
        build_int_world(replace(CONFIG, right_share=0.5), cache)
    assert [path.name for path in cache.iterdir() if path.name.startswith(".")] == []
    other = replace(CONFIG, world=replace(CONFIG.world, seed=1))
    assert len({int_key(CONFIG), int_key(other), int_key(replace(CONFIG, right_share=0.5))}) == 3


def test_it_is_copied_next_to_another_world(cache, tmp_path):
    made = build_int_world(CONFIG, cache)
    target = export(
        tmp_path / "tiny-world",
        [lambda to: (to / "train.jsonl").write_text("plain"), lambda to: copy_int_world(to, CONFIG, cache)],
    )
    assert {path.name for path in target.iterdir()} == {
        "train.jsonl", "solver", "int-train.jsonl", "int-test.jsonl"
    }  # fmt: skip
    assert (target / "int-test.jsonl").read_bytes() == made.test.read_bytes()
