"""A world after a few steps: files, cache; no held-out problem is trained on."""

import json
import subprocess
import sys
from dataclasses import replace
from random import Random

import pytest
from small_world import CONFIG, LEARNER
from transformers import AutoModelForCausalLM, AutoTokenizer

from fastrl.tiny.world import make as world
from fastrl.tiny.world import teach
from fastrl.tiny.world.check import check_trace
from fastrl.tiny.world.examples import generator_row, receiver_row
from fastrl.tiny.world.make import WorldConfig, build_world
from fastrl.tiny.world.notation import STYLES
from fastrl.tiny.world.task import Chain, ChainConfig, draw_chains
from fastrl.tiny.world.traces import reference_solution

CHAINS = draw_chains(ChainConfig(), 400, seed=1, split="train")


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

    monkeypatch.setattr(world, "make_world", refuse)
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

    monkeypatch.setattr(world, "make_world", breaks)
    with pytest.raises(RuntimeError, match="no more disk"):
        build_world(CONFIG, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_training_that_fails_says_why(tmp_path):
    work = tmp_path / ".generator"
    work.mkdir()
    with (work / "log.txt").open("w") as log:
        code = "import sys; print('no such row'); sys.exit(3)"
        process = subprocess.Popen([sys.executable, "-c", code], stdout=log)
    with pytest.raises(
        RuntimeError, match=r"\[tiny\] generator: training ended with exit code 3\nno such row"
    ):
        teach.finish(process, work, tmp_path / "generator")
    assert not (tmp_path / "generator").exists()


def test_generator_examples_keep_to_their_shares():
    config = WorldConfig()
    random = Random(0)
    styles = dict.fromkeys(STYLES, 0)
    written, wrong = dict(styles), dict(styles)
    for chain in CHAINS:
        row = generator_row(config, chain, random)
        assert row["prompt"] == chain.expression
        report = check_trace(chain, row["completion"])
        assert report.complete
        styles[report.style] += 1
        written[report.style] += report.steps_right + report.steps_wrong
        wrong[report.style] += report.steps_wrong
    # binomial: four standard deviations around the share and around the rate
    for style, share, rate in zip(STYLES, config.style_shares, config.slip_rates, strict=True):
        assert abs(styles[style] / len(CHAINS) - share) < 4 * (share * (1 - share) / len(CHAINS)) ** 0.5
        assert abs(wrong[style] / written[style] - rate) < 4 * (rate * (1 - rate) / written[style]) ** 0.5


def test_systematic_errors_are_the_worlds_own():
    config = WorldConfig(num_wrong_entries=150, slip_rates=(0.0, 0.0, 0.0))
    wrong = [check_trace(c, generator_row(config, c, Random(0))["completion"]).steps_wrong for c in CHAINS]
    right = [
        check_trace(c, generator_row(replace(config, num_wrong_entries=0), c, Random(0))["completion"])
        for c in CHAINS
    ]
    assert sum(wrong) > len(CHAINS)
    assert all(report.steps_wrong == 0 for report in right)


def test_receiver_examples_are_right_and_explicit():
    config = WorldConfig(cut_share=0.5)
    random = Random(0)
    cuts = 0
    for chain in CHAINS:
        row = receiver_row(config, chain, random)
        begun = ""
        if isinstance(row["prompt"], list):
            cuts += 1
            (question, turn) = row["prompt"]
            assert question == {"role": "user", "content": chain.expression}
            begun = turn["content"]
        assert begun + row["completion"] == reference_solution(chain)
    assert abs(cuts / len(CHAINS) - 0.5) < 4 * (0.25 / len(CHAINS)) ** 0.5


def test_nothing_held_out_is_learnt_from(tmp_path):
    """What a model is taught with, as written, against the held-out problems."""
    learner = replace(LEARNER, num_steps=30, batch_size=10)
    held_out = {chain.expression for chain in draw_chains(ChainConfig(), 500, seed=0, split="test")}
    prompts = {}
    for name in ("generator", "receiver", "held_out_receiver"):
        recipe = teach.prepare(CONFIG, learner, teach.generator_row, tmp_path / name, name)
        rows = [json.loads(line) for line in (recipe.parent / "examples.jsonl").open()]
        prompts[name] = {row["prompt"] for row in rows}
        assert len(prompts[name]) == len(rows) == 300
        assert prompts[name].isdisjoint(held_out)
    assert prompts["receiver"] != prompts["held_out_receiver"] != prompts["generator"]
