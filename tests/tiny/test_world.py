"""A world of a few steps: its files, its cache, and that nothing held out is learnt from."""

import json
from dataclasses import replace

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from fastrl.tiny import world
from fastrl.tiny.check import check_trace
from fastrl.tiny.models import Shape
from fastrl.tiny.notation import STYLES
from fastrl.tiny.task import Chain
from fastrl.tiny.world import LearnerConfig, WorldConfig, build_world, write_jsonl

SMALL = Shape(family="llama", hidden=32, layers=1, heads=2, kv_heads=1, head_dim=16, intermediate=32)
LEARNER = LearnerConfig(shape=SMALL, num_steps=3, batch_size=8)
CONFIG = WorldConfig(
    num_train=60,
    num_test=20,
    generator=replace(LEARNER, shape=replace(SMALL, family="qwen3")),
    receiver=LEARNER,
    held_out_receiver=LEARNER,
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def test_the_world_is_made_of_the_ecosystems_files(cache):
    made = build_world(CONFIG, cache)
    for folder, kind in (
        (made.generator, "Qwen3"),
        (made.receiver, "Llama"),
        (made.held_out_receiver, "Llama"),
    ):
        assert type(AutoModelForCausalLM.from_pretrained(folder)).__name__ == f"{kind}ForCausalLM"
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert tokenizer.chat_template and tokenizer.eos_token_id is not None
        losses = [json.loads(line)["loss"] for line in (folder / "sft_metrics.jsonl").open()]
        assert len(losses) == 3
    for file, count in ((made.train, 60), (made.test, 20)):
        rows = [json.loads(line) for line in file.open()]
        assert len(rows) == count
        for row in rows:
            assert row == {
                "prompt": row["expression"],
                "solution": str(Chain.parse(row["expression"]).answer),
                "expression": row["expression"],
            }
    assert made.receiver.joinpath("model.safetensors").read_bytes() != (
        made.held_out_receiver.joinpath("model.safetensors").read_bytes()
    )


def test_it_is_made_once(cache, monkeypatch):
    made = build_world(CONFIG, cache)

    def refuse(*_):
        raise AssertionError("made again")

    monkeypatch.setattr(world, "make", refuse)
    assert build_world(CONFIG, cache) == made
    monkeypatch.setenv("FASTRL_CACHE", str(cache))
    with pytest.raises(AssertionError, match="made again"):
        build_world(CONFIG)  # FASTRL_CACHE/tiny is another folder
    with pytest.raises(AssertionError, match="made again"):
        build_world(replace(CONFIG, slip_rates=(0.08, 0.06, 0.05)), cache)
    assert [path.name for path in cache.iterdir() if path.name.startswith(".")] == []


def test_a_broken_making_leaves_nothing(tmp_path, monkeypatch):
    def breaks(config, folder):
        (folder / "train.jsonl").write_text("half")
        raise RuntimeError("no more disk")

    monkeypatch.setattr(world, "make", breaks)
    with pytest.raises(RuntimeError, match="no more disk"):
        build_world(CONFIG, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_examples_are_what_they_are_said_to_be(tmp_path, monkeypatch):
    """Generators see three styles, receivers right explicit traces only; neither sees a held-out problem."""
    written = {}

    def remember(path, rows):
        written.setdefault(
            path.parent.name.strip(".") if path.name == "examples.jsonl" else path.stem, list(rows)
        )
        write_jsonl(
            path, written[path.parent.name.strip(".") if path.name == "examples.jsonl" else path.stem]
        )

    monkeypatch.setattr(world, "write_jsonl", remember)
    many = replace(LEARNER, num_steps=1, batch_size=240)
    config = replace(CONFIG, generator=replace(many, shape=CONFIG.generator.shape), receiver=many)
    build_world(config, tmp_path)
    held_out = {row["expression"] for row in written["test"]}
    styles = {"explicit": 0, "leap": 0, "private": 0}
    steps, wrong = 0, 0
    for row in written["generator"]:
        report = check_trace(Chain.parse(row["prompt"]), row["completion"])
        assert report.complete
        styles[report.style] += 1
        steps += report.steps_right + report.steps_wrong
        wrong += report.steps_wrong
    for style, share in zip(STYLES, config.style_shares, strict=True):
        assert abs(styles[style] / 240 - share) < 4 * (share * (1 - share) / 240) ** 0.5
    assert 0.02 < wrong / steps < 0.09
    cuts = 0
    for row in written["receiver"]:
        cut = isinstance(row["prompt"], list)
        cuts += cut
        expression = row["prompt"][0]["content"] if cut else row["prompt"]
        trace = (row["prompt"][1]["content"] if cut else "") + row["completion"]
        report = check_trace(Chain.parse(expression), trace)
        assert report.style == "explicit" and report.steps_wrong == 0 and report.correct
        assert expression not in held_out
    assert abs(cuts / 240 - config.cut_share) < 0.13
    assert held_out.isdisjoint(row["prompt"] for row in written["generator"])
    first = {json.dumps(row["prompt"]) for row in written["receiver"]}
    assert first.isdisjoint(json.dumps(row["prompt"]) for row in written["held_out_receiver"])
