"""RL with adapters: the engine's weights, the reference without a second model, resume, two ranks."""

from dataclasses import replace

import pytest
import torch
from checkpoints import as_before
from rank_processes import on_ranks, stages
from tiny_rl import VOWELS, curve, tiny_rl, write_additions
from transformers import AutoModelForCausalLM

import fastrl.engine.build
from fastrl.config import (
    AdapterConfig,
    ModelConfig,
    RlConfig,
    RolloutConfig,
    RunConfig,
    TrainConfig,
)
from fastrl.kernels.config import LossConfig
from fastrl.policy.lora import FOLDER, adapter_weights, merged_weights
from fastrl.policy.model import Policy
from fastrl.stages.build import build_rl
from fastrl.train import run_stage


@pytest.fixture
def config(checkpoints, tmp_path) -> RlConfig:
    lora = AdapterConfig(rank=3, target_modules=("q_proj", "down_proj"))
    return tiny_rl(
        checkpoints["qwen3"], write_additions(tmp_path / "problems.jsonl", 7), tmp_path / "run",
        run=RunConfig(device="cpu", save_every=1),
        model=ModelConfig(path=str(checkpoints["qwen3"]), lora=lora),
        rollout=RolloutConfig(num_prompts=3, group_size=4, max_new_tokens=9),
        reward=VOWELS,
        loss=LossConfig(kl_coef=0.05),
        train=TrainConfig(num_steps=3, learning_rate=3e-2),
    )  # fmt: skip


def in_folder(config, folder):
    return replace(config, run=replace(config.run, dir=str(folder)))


def bits(checkpoint):
    files = ("model.safetensors", "trainer_state/optimizer.safetensors")
    return [(checkpoint / name).read_bytes() for name in files]


def test_a_run_changes_only_adapters_and_leaves_a_merged_folder(config):
    last = run_stage(config)
    assert (last / FOLDER / "adapter_config.json").is_file()
    start = AutoModelForCausalLM.from_pretrained(config.model.path).state_dict()
    merged = AutoModelForCausalLM.from_pretrained(last).state_dict()
    moved = {name.split(".")[-2] for name in start if not torch.equal(start[name], merged[name])}
    assert moved == {"q_proj", "down_proj"} and start.keys() == merged.keys()
    lines = curve(last.parent.parent)[1:]
    assert [line["step"] for line in lines] == [1, 2, 3] and lines[0]["grad_norm"] > 0
    # the engine samples from the adapted weights: its log-probs are the trainer's, in every step
    for line in lines:
        assert abs(line["sampling/importance_sampling_ratio/mean"] - 1) < 1e-4
    # nothing has moved in the first step, afterwards something has
    assert lines[0]["kl"] == pytest.approx(0, abs=1e-6) and lines[2]["kl"] > 1e-4


def test_the_engine_holds_the_merged_weights_to_the_bit_and_is_sent_only_what_changed(config):
    parts = build_rl(config)
    sent = []
    load = parts.engine.load_weights

    def watched(tensors, version, partial):
        tensors = list(tensors)
        sent.append({name for name, _ in tensors})
        return load(tensors, version, partial)

    parts.engine.load_weights = watched
    for version in range(3):
        parts.sync_engine(version)
        merged = merged_weights(parts.policy.model)
        held = parts.engine.decoder.model.state_dict()
        assert all(torch.equal(held[name], weight) for name, weight in merged.items())
        for weight in adapter_weights(parts.policy.model).values():
            weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(version))
    parts.close()
    every = dict(AutoModelForCausalLM.from_pretrained(config.model.path).named_parameters())
    assert sent[0] == set(every)
    changed = {name for name in every if name.endswith(("q_proj.weight", "down_proj.weight"))}
    assert sent[1] == sent[2] == changed and len(changed) == 4


def test_an_engine_that_takes_no_part_gets_all(config, monkeypatch):
    monkeypatch.setattr(fastrl.engine.build.TorchEngine, "takes_partial_weights", False)
    parts = build_rl(config)
    asked = []
    monkeypatch.setattr(parts.engine, "load_weights", lambda t, v, p: asked.append((len(list(t)), v, p)))
    parts.sync_engine(4)
    parts.sync_engine(5)
    parts.close()
    every = len(list(AutoModelForCausalLM.from_pretrained(config.model.path).named_parameters()))
    assert asked == [(every, 4, False), (every, 5, False)]


def test_the_reference_is_the_policys_own_model(config, monkeypatch):
    loaded = []
    load = Policy.load.__func__
    monkeypatch.setattr(Policy, "load", classmethod(lambda *a, **k: loaded.append(1) or load(*a, **k)))
    parts = build_rl(config)
    parts.close()
    assert len(loaded) == 1 and parts.reference.model is parts.policy.model
    whole = build_rl(replace(config, model=ModelConfig(path=config.model.path)))
    whole.close()
    assert len(loaded) == 3 and whole.reference.model is not whole.policy.model


@pytest.mark.parametrize("layout", ["plain", "of 0.1"])
def test_going_on_from_a_checkpoint_is_bit_for_bit(config, tmp_path, layout):
    whole = run_stage(in_folder(config, tmp_path / "whole"))
    begun = in_folder(config, tmp_path / "parts")
    left = run_stage(replace(begun, train=replace(config.train, num_steps=1)))
    if layout != "plain":
        as_before(left)
    resumed = run_stage(begun)
    assert curve(tmp_path / "whole") == curve(tmp_path / "parts")
    assert bits(whole) == bits(resumed)
    adapters = [path / FOLDER / "adapter_model.safetensors" for path in (whole, resumed)]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()


def test_two_ranks_learn_what_one_learns(config, tmp_path):
    # as many prompts for each, so that both draw the same ones
    rollout = replace(config.rollout, num_prompts=4)
    config = replace(config, rollout=rollout, train=TrainConfig(num_steps=2, learning_rate=1e-3))
    two = in_folder(config, tmp_path / "two")
    on_ranks(2, stages, tmp_path / "found", two)
    run_stage(in_folder(config, tmp_path / "one"))
    for one, other in zip(curve(tmp_path / "one")[1:], curve(tmp_path / "two")[1:], strict=True):
        for name in ("reward", "grad_norm", "entropy", "kl", "num_tokens"):
            assert other[name] == pytest.approx(one[name], rel=1e-4, abs=1e-7), (one["step"], name)
