"""The weak world after a few training steps: files, cache, export next to other worlds."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from small_world import CONFIG as PLAIN
from transformers import AutoModelForCausalLM

from fastrl.config.load import load_config
from fastrl.data.splits import split_of
from fastrl.tiny.folders import export
from fastrl.tiny.weak import make as weak_world
from fastrl.tiny.weak.config import MIXES, WeakConfig
from fastrl.tiny.weak.make import FILES, build_weak_world, copy_weak_world, weak_key
from fastrl.tiny.world.task import Chain
from fastrl.tiny.world.teach import finish
from fastrl.train import run_stage

CONFIG = WeakConfig(world=PLAIN, mix_steps=2, num_texts=5, num_traces=30)
LEARNT, STARTS = [], []


def learn_here(recipe, folder):
    """As teach.learn, in this process; other tests start processes."""
    STARTS.append(load_config(str(recipe)).model.path)
    LEARNT.extend(json.loads(line)["prompt"] for line in (recipe.parent / "examples.jsonl").open())
    run_stage(load_config(str(recipe)))
    finish(SimpleNamespace(wait=lambda: 0), recipe.parent, folder)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr(weak_world, "learn", learn_here)


def rows_of(path):
    return [json.loads(line) for line in path.open()]


def test_the_world_is_made_of_the_ecosystems_files(cache):
    made = build_weak_world(CONFIG, cache)
    for folder in (made.generator, made.base):
        assert type(AutoModelForCausalLM.from_pretrained(folder)).__name__ == "Qwen3ForCausalLM"
    names = {path.name for path in made.folder.iterdir()}
    assert names == {"generator", "weak-base", *(f"weak-{name}.jsonl" for name in FILES)}
    for name, split, count, lengths in (
        ("train", "train", 60, {3, 4, 5}), ("test", "test", 20, {3, 4, 5}), ("long", "test", 20, {6, 7})
    ):  # fmt: skip
        rows = rows_of(made.file(name))
        chains = [Chain.parse(row["expression"]) for row in rows]
        assert len(rows) == len({row["prompt"] for row in rows}) == count
        assert {len(chain.terms) for chain in chains} == lengths
        assert {split_of(row["expression"]) for row in rows} == {split}
        assert [row["solution"] for row in rows] == [str(chain.answer) for chain in chains]
    assert len(rows_of(made.file("text"))) == 5 and len(rows_of(made.file("traces"))) == 30
    assert {split_of(row["prompt"]) for row in rows_of(made.file("traces"))} == {"train"}


def test_nothing_held_out_is_learnt_from(tmp_path):
    LEARNT.clear()
    build_weak_world(CONFIG, tmp_path)
    assert len(LEARNT) == 3 * 8 and {split_of(prompt) for prompt in LEARNT} == {"train"}


def test_it_is_made_once_and_a_mix_is_its_own(cache, monkeypatch):
    made = build_weak_world(CONFIG, cache)

    def refuse(*_):
        raise AssertionError("made again")

    monkeypatch.setattr(weak_world, "make_weak", refuse)
    assert build_weak_world(CONFIG, cache) == made
    with pytest.raises(AssertionError, match="made again"):
        build_weak_world(replace(CONFIG, mix="half_coded"), cache)
    assert [path.name for path in cache.iterdir() if path.name.startswith(".")] == []
    others = [replace(CONFIG, mix=mix) for mix in MIXES] + [replace(CONFIG, num_texts=6)]
    assert len({weak_key(config) for config in others}) == len(MIXES) + 1


def test_it_is_copied_next_to_another_world(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(weak_world, "MIXES", {mix: MIXES[mix] for mix in ("explicit", "coded")})

    target = export(
        tmp_path / "tiny-world",
        [lambda to: (to / "train.jsonl").write_text("plain"), lambda to: copy_weak_world(to, CONFIG, cache)],
    )
    assert {path.name for path in target.iterdir()} == {
        "train.jsonl", "weak-explicit", "weak-coded", "weak-base", *(f"weak-{name}.jsonl" for name in FILES)
    }  # fmt: skip
    weights = [(target / f"weak-{mix}" / "model.safetensors").read_bytes() for mix in ("explicit", "coded")]
    assert weights[0] != weights[1]
    assert Path(STARTS[-1]) == build_weak_world(CONFIG, cache).generator
    assert (
        len(rows_of(build_weak_world(replace(CONFIG, mix="coded"), cache).generator / "sft_metrics.jsonl"))
        == 2
    )
