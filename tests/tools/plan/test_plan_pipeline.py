"""Plans of pipelines and of every stage's models, by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from fastrl.cli.main import main
from fastrl.config import (
    AdapterConfig,
    BackboneConfig,
    CheckpointConfig,
    EngineConfig,
    ExecutorConfig,
    GroupsConfig,
    HardSetConfig,
    InterveneConfig,
    LoraConfig,
    ModelConfig,
    RewardModelConfig,
    RlConfig,
    RolloutConfig,
    SftConfig,
    SubsetConfig,
    TrainConfig,
    WriterConfig,
    get_option,
    with_option,
)
from fastrl.config.load import from_dict
from fastrl.methods.tracelift.rubric_input import Rubric
from fastrl.methods.tracelift.rubric_model import RubricModel
from fastrl.tools.plan.footprint import Footprint
from fastrl.tools.plan.hints import MICROBATCH, hint, size
from fastrl.tools.plan.planner import Device, Planner
from fastrl.tools.plan.report import recipe_page, with_models

GPU = Device.gpu(1)
CPU = torch.device("cpu")
SHORT = {"tokens_per_microbatch": 128}


def footprint(path: Path) -> Footprint:
    return Footprint("model", CheckpointConfig(path=str(path)))


def sizes(config) -> dict[str, int | None]:
    return {item.name: item.num_bytes for item in Planner(config, GPU).items()}


@pytest.mark.parametrize("family", ["qwen3", "llama"])
@pytest.mark.parametrize("rank", [0, 3])
def test_a_reward_model_holds_what_is_planned(checkpoints, family, rank):
    """All of the backbone but the language head, which an untied model leaves out; heads are 26 rows more."""
    model = BackboneConfig(path=str(checkpoints[family]))
    lora = LoraConfig(rank=rank)
    config = RewardModelConfig(
        model=model, lora=lora, max_tokens=64, train=TrainConfig(tokens_per_microbatch=64)
    )
    planned = sizes(config)
    real = RubricModel.start(model, Rubric("math", 64), lora, CPU, 0)
    heads = 26 * 32 + 26
    weights = sum(p.numel() for p in real.policy.model.parameters()) - heads
    trained = sum(p.numel() for p in real.policy.parameters()) - heads
    assert planned["policy weights"] == 4 * weights and planned["gradients"] == 4 * trained
    assert set(planned) == {"policy weights", "gradients", "optimizer states", "activations"}
    assert 8 * trained < planned["optimizer states"] < 8 * trained + 4 * 64


def test_adapters_are_counted(checkpoints):
    """Rank 2 on q_proj (32 -> 32) of two layers: 2 * 2 * (32 + 32) trained weights, all else frozen."""
    model = ModelConfig(path=str(checkpoints["llama"]))
    whole = sizes(SftConfig(model=model))
    lora = AdapterConfig(rank=2, target_modules=("q_proj",))
    adapted = sizes(SftConfig(model=replace(model, lora=lora)))
    assert adapted["gradients"] == 4 * 256 and adapted["optimizer states"] == 8 * 256 + 4 * 4
    assert adapted["policy weights"] == whole["policy weights"] + 4 * 256
    # the head is frozen: no gradient of its weight, 260 x 32 in float32
    assert whole["head"] - adapted["head"] == 4 * 260 * 32


def test_a_head_that_is_cast_on_a_gpu_is_counted(checkpoints):
    """Hidden states and their gradient in half the bytes, and a copy of the head, 260 x 32."""
    path = str(checkpoints["llama"])
    half, full = (SftConfig(model=ModelConfig(path=path, dtype=dtype)) for dtype in ("bfloat16", "float32"))
    rows = 2 * (half.train.tokens_per_microbatch + 1) * 32
    assert sizes(half)["head"] == 4 * 260 * 32 + 2 * rows + 2 * 260 * 32
    assert sizes(full)["head"] == 4 * 260 * 32 + 4 * rows


def test_stages_that_only_sample_hold_engines(checkpoints):
    engine = EngineConfig(max_batch_tokens=64)
    model = CheckpointConfig(path=str(checkpoints["llama"]))
    cache = (64 + 16) * 2 * 2 * 2 * 8 * 2  # a block more; keys and values, layers, heads, size, bfloat16
    expected = {
        "engine weights": footprint(checkpoints["llama"]).weights(torch.bfloat16),
        "engine KV cache": cache,
    }
    for cls in (HardSetConfig, InterveneConfig, SubsetConfig):
        assert sizes(cls(model=model, engine=engine)) == expected
    assert sizes(GroupsConfig()) == {}
    own = GroupsConfig(writer=WriterConfig(model=model, engine=engine), executor=ExecutorConfig(model=model))
    assert sizes(own) == {
        name.replace("engine", owner): size
        for owner in ("writer", "executor")
        for name, size in expected.items()
    }
    fits, page = recipe_page(GroupsConfig(), GPU)
    assert fits and page == "no model: nothing to plan"


def test_the_hint_for_a_stage_that_only_generates(checkpoints):
    model = CheckpointConfig(path=str(checkpoints["llama"]))
    config = GroupsConfig(writer=WriterConfig(model=model))
    writer = "writer.engine.max_batch_tokens"
    half = get_option(config, writer) // 2
    needed = Planner(with_option(config, writer, half), GPU).needed()
    line = hint(Planner(config, Device("cuda", "GPU", 1024)))
    assert line == f"needs less with --{writer} {half} ({size(needed)})"


def test_deterministic_plans_one_sequence_at_a_time(checkpoints):
    config = RlConfig(
        model=ModelConfig(path=str(checkpoints["qwen3"])), rollout=RolloutConfig(max_new_tokens=64)
    )
    alone = with_option(config, "run.deterministic", True)
    assert sizes(alone)["activations"] == sizes(with_option(config, MICROBATCH, 64))["activations"]
    assert sizes(alone)["activations"] < sizes(config)["activations"]


def pipeline(checkpoints) -> dict:
    return {
        "stage": "pipeline",
        "run": {"dir": "never"},
        "groups": {"stage": "groups"},
        "judge": {
            "stage": "reward_model",
            "model": {"path": str(checkpoints["gpt2"])},
            "max_tokens": 64,
            "train": SHORT,
        },
        "sft": {"stage": "sft", "model": {"path": str(checkpoints["qwen3"])}, "train": SHORT},
        "more": {"stage": "sft", "model": {"path": "@sft"}, "train": SHORT},
        "rl": {
            "stage": "rl",
            "model": {"path": "@more"},
            "train": SHORT,
            "rollout": {"max_new_tokens": 64},
            "data": {"path": "@groups/train.jsonl"},
            "reward": {"functions": ["uplift", "transfer"], "weights": [1.0, 1.0]},
            "uplift": {
                "reward_model": "@judge",
                "executor": {"model": {"path": str(checkpoints["llama"])}},
            },
            "transfer": {"receiver": {"path": "@sft"}},
        },
    }


@pytest.mark.slow
def test_a_pipelines_stages_are_planned_with_the_models_they_start_from(checkpoints):
    recipe = from_dict(pipeline(checkpoints))
    rl = with_models(recipe, "rl")
    assert rl.model.path == rl.transfer.receiver.path == str(checkpoints["qwen3"])
    assert rl.uplift.reward_model == str(checkpoints["gpt2"])
    judge = Planner(rl, GPU).items()
    size = next(item.num_bytes for item in judge if item.name == "reward model weights")
    assert size == footprint(checkpoints["gpt2"]).backbone(torch.bfloat16)
    fits, page = recipe_page(recipe, Device.gpu(64))
    assert fits and page.endswith("every stage fits")
    titles = [part.splitlines()[0] for part in page.split("\n\n")]
    assert titles == [
        "groups (groups)",
        "judge (reward_model)",
        "sft (sft)",
        "more (sft)",
        "rl (rl)",
        "every stage fits",
    ]
    fits, page = recipe_page(recipe, Device.gpu(0.001))
    assert not fits and page.endswith("not every stage fits")


@pytest.mark.slow
def test_the_command_plans_pipelines(checkpoints, tmp_path, capsys):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(pipeline(checkpoints), sort_keys=False))
    assert main(["plan", str(path), "--gpu_gib", "64", "--rl.train.num_steps", "9"]) == 0
    assert capsys.readouterr().out.endswith("every stage fits\n")
    assert main(["plan", str(path), "--gpu_gib", "0.001"]) == 1
