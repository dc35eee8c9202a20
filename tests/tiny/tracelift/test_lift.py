"""TraceLift's world after a few steps: files, cache, export; no held-out problem is trained on."""

import json
import shutil
from dataclasses import replace
from threading import Lock
from types import SimpleNamespace

import pytest
from small_world import CONFIG as PLAIN
from transformers import AutoModelForCausalLM

from fastrl.config.load import load_config
from fastrl.data.splits import split_of
from fastrl.runtime.seeding import seed_of
from fastrl.tiny.folders import export
from fastrl.tiny.tracelift import make as lift
from fastrl.tiny.tracelift import teach as lift_teach
from fastrl.tiny.tracelift.config import LessonConfig, LiftConfig
from fastrl.tiny.tracelift.examples import executor_row, planner_row
from fastrl.tiny.tracelift.make import build_lift_world, copy_lift_world, lift_key
from fastrl.tiny.world.examples import problem_row, write_jsonl
from fastrl.tiny.world.make import World, world_key
from fastrl.tiny.world.models import initialise
from fastrl.tiny.world.task import Chain, ChainConfig, draw_chains
from fastrl.tiny.world.teach import finish
from fastrl.train import run_stage

LESSON = LessonConfig(num_steps=2, batch_size=4)
CONFIG = LiftConfig(world=PLAIN, num_seeds=12, planner=LESSON, executor=LESSON, held_out_executor=LESSON)
TURN = Lock()


def untaught_world(config, cache):
    """A plain world whose models know nothing: what is made from it needs no more."""
    folder = cache / world_key(config)
    models = {
        "generator": config.generator,
        "receiver": config.receiver,
        "held_out_receiver": config.held_out_receiver,
    }
    splits = {"train": config.num_train, "test": config.num_test}
    if not folder.is_dir():
        for seed, (name, learner) in enumerate(models.items()):
            initialise(learner.shape, folder / name, seed=seed)
        for split, count in splits.items():
            chains = draw_chains(config.chains, count, seed=seed_of(config.seed, "problems"), split=split)
            write_jsonl(folder / f"{split}.jsonl", map(problem_row, chains))
    return World(*(folder / name for name in models), *(folder / f"{split}.jsonl" for split in splits))


def learn_here(recipe, folder):
    """As lift_teach.learn, one after the other in this process; other tests start processes."""
    with TURN:
        run_stage(load_config(str(recipe)))
        finish(SimpleNamespace(wait=lambda: 0), recipe.parent, folder)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr(lift, "build_world", untaught_world)
    monkeypatch.setattr(lift_teach, "learn", learn_here)


def rows_of(path):
    return [json.loads(line) for line in path.open()]


def test_the_world_is_made_of_the_ecosystems_files(cache):
    made = build_lift_world(CONFIG, cache)
    base = made.base
    for folder, start, kind in (
        (made.planner, base.generator, "Qwen3"),
        (made.executor, base.receiver, "Llama"),
        (made.held_out_executor, base.held_out_receiver, "Llama"),
    ):
        assert type(AutoModelForCausalLM.from_pretrained(folder)).__name__ == f"{kind}ForCausalLM"
        assert (folder / "tokenizer.json").read_text() == (start / "tokenizer.json").read_text()
        weights = [(path / "model.safetensors").read_bytes() for path in (folder, start)]
        assert weights[0] != weights[1] and len(weights[0]) == len(weights[1])
        assert len(rows_of(folder / "sft_metrics.jsonl")) == 2
    weights = [(path / "model.safetensors").read_bytes() for path in (made.executor, made.held_out_executor)]
    assert weights[0] != weights[1]


def test_problems_are_the_plain_worlds_and_programs_around_them(cache):
    made = build_lift_world(CONFIG, cache)
    for split, count, plain in (("train", 60, made.base.train), ("test", 20, made.base.test)):
        assert rows_of(made.problems("math", split)) == rows_of(plain)
        rows = rows_of(made.problems("code", split))
        assert len(rows) == count
        for row in rows:
            value = Chain.parse(row["expression"]).answer
            assert row["prompt"] == f"x*({row['expression']})"
            assert row["solution"] == f"print(int(input())*{value}%10)"
            assert all(int(t["stdin"]) * value % 10 == int(t["stdout"]) for t in row["tests"])
            assert split_of(row["expression"]) == split
    for task in ("math", "code"):
        rows = rows_of(made.seeds(task))
        assert len(rows) == len({row["prompt"] for row in rows}) == 12
        assert all(split_of(row["expression"]) == "train" for row in rows)
        assert {"positive", "candidates", "reference_solution"} < set(rows[0])


def test_it_is_made_once(cache, monkeypatch):
    made = build_lift_world(CONFIG, cache)

    def refuse(*_):
        raise AssertionError("made again")

    monkeypatch.setattr(lift, "make_lift", refuse)
    assert build_lift_world(CONFIG, cache) == made
    with pytest.raises(AssertionError, match="made again"):
        build_lift_world(replace(CONFIG, code_share=0.4), cache)
    assert [path.name for path in cache.iterdir() if path.name.startswith(".")] == []
    other = replace(CONFIG, world=replace(PLAIN, seed=1))
    assert len({lift_key(CONFIG), lift_key(other), lift_key(replace(CONFIG, num_seeds=13))}) == 3


def test_a_broken_making_leaves_nothing(cache, monkeypatch):
    before = sorted(cache.iterdir())

    def breaks(config, base, folder):
        (folder / "math-train.jsonl").write_text("half")
        raise RuntimeError("no more disk")

    monkeypatch.setattr(lift, "make_lift", breaks)
    with pytest.raises(RuntimeError, match="no more disk"):
        build_lift_world(replace(CONFIG, num_seeds=14), cache)
    assert sorted(cache.iterdir()) == before


def test_both_worlds_are_exported_into_one_folder(cache, tmp_path):
    made = build_lift_world(CONFIG, cache)
    copies = [lambda to: shutil.copytree(made.base.generator.parent, to, dirs_exist_ok=True)]
    copies.append(lambda to: copy_lift_world(to, CONFIG, cache))
    target = export(tmp_path / "tiny-world", copies)
    files = [f"{task}-{kind}.jsonl" for task in ("math", "code") for kind in ("train", "test", "seeds")]
    assert {path.name for path in target.iterdir()} == {
        "generator", "receiver", "held_out_receiver", "train.jsonl", "test.jsonl",
        "planner", "executor", "held_out_executor", *files,
    }  # fmt: skip
    assert (target / "math-seeds.jsonl").read_bytes() == made.seeds("math").read_bytes()


def test_nothing_held_out_is_learnt_from(tmp_path):
    """What each model is taught with, as written, against the held-out problems."""
    held_out = {chain.expression for chain in draw_chains(ChainConfig(), 500, seed=0, split="test")}
    lesson = LessonConfig(num_steps=20, batch_size=10)
    asked = {}
    for name, row in (
        ("planner", planner_row),
        ("executor", executor_row),
        ("held_out_executor", executor_row),
    ):
        recipe = lift_teach.prepare(CONFIG, lesson, tmp_path, row, tmp_path / name, name)
        prompts = [row["prompt"] for row in rows_of(recipe.parent / "examples.jsonl")]
        asked[name] = {p.split("\n")[0].removeprefix("x*(").removesuffix(")") for p in prompts}
        assert len(prompts) == len(asked[name]) == 200
        assert asked[name].isdisjoint(held_out)
    assert len(set.union(*asked.values())) > 590
