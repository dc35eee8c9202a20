"""Checkpoints of every stage in other tools: transformers, peft, vLLM, model hubs."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from jsonl import write_jsonl
from places import TESTS
from reward_model_world import config_of
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer
from vllm_cases import write

from fastrl.config import (
    AdapterConfig,
    CptConfig,
    DataConfig,
    EvalConfig,
    ModelConfig,
    RewardConfig,
    RlConfig,
    RolloutConfig,
    RunConfig,
    SftConfig,
    TextConfig,
    TrainConfig,
)
from fastrl.config.load import from_dict
from fastrl.engine.vllm.adapter import unusable
from fastrl.methods.tracelift.rubric_model import RubricModel, read_to_the_end
from fastrl.policy.model import Policy
from fastrl.runtime.run import read_metrics
from fastrl.train import run_stage
from fastrl.types import SamplingParams

CPU = torch.device("cpu")
PROMPTS = [[2, 40, 41, 3], [5, 9, 12], list(range(20, 60))]
TROUBLES = ("missing_keys", "unexpected_keys", "mismatched_keys")


def rows(path, rows):
    write_jsonl(path, rows)
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def left(folder, checkpoints):
    """The last checkpoint of a run of each stage: adapters in rl, written during training in sft."""
    llama, qwen = str(write(folder / "llama", "llama")), str(write(folder / "qwen3", "qwen3"))
    problems = rows(folder / "problems.jsonl", [{"question": f"{a}+1", "answer": "2"} for a in range(5)])
    train = TrainConfig(num_steps=2, learning_rate=1e-2)
    lora = AdapterConfig(rank=2, target_modules=("q_proj", "down_proj"))
    judged = config_of(checkpoints["qwen3"], folder / "reward_model", num_steps=2)
    stages = {
        "rl": RlConfig(
            model=ModelConfig(path=qwen, lora=lora),
            data=DataConfig(path=problems),
            rollout=RolloutConfig(num_prompts=2, group_size=4, max_new_tokens=6),
            reward=RewardConfig(functions=("reward_functions.vowels",), weights=(1.0,)),
            eval=EvalConfig(path=problems, limit=2, num_samples=1),
            train=train,
        ),
        "sft": SftConfig(
            run=RunConfig(async_save=True),
            model=ModelConfig(path=llama),
            data=DataConfig(path=rows(folder / "sft.jsonl", [{"prompt": "a", "completion": "bcd"}] * 3)),
            batch_size=2,
            train=train,
        ),
        "cpt": CptConfig(
            model=ModelConfig(path=qwen),
            data=TextConfig(path=rows(folder / "text.jsonl", [{"text": "abcabcab"}] * 3)),
            seq_len=16,
            batch_size=2,
            train=train,
        ),
        "reward_model": replace(judged, run=RunConfig()),
    }
    found = {}
    for name, config in stages.items():
        run = replace(config.run, dir=str(folder / "runs" / name), device="cpu")
        found[name] = run_stage(replace(config, run=run))
    return found


LANGUAGE_MODELS = ("rl", "sft", "cpt")


@pytest.mark.parametrize("stage", LANGUAGE_MODELS)
def test_transformers_finds_every_weight_and_no_other(left, stage):
    model, info = AutoModelForCausalLM.from_pretrained(left[stage], output_loading_info=True)
    assert not any(info[trouble] for trouble in TROUBLES), info
    policy = Policy.load(ModelConfig(path=str(left[stage])), CPU)
    with torch.no_grad():
        logits = model(torch.tensor([PROMPTS[0]])).logits[0, -1]
    torch.testing.assert_close(logits, next_logits(policy, PROMPTS[0]), rtol=1e-5, atol=1e-5)
    assert AutoTokenizer.from_pretrained(left[stage]).chat_template
    assert len(list(left[stage].glob("*.safetensors"))) == 1


def next_logits(policy, ids):
    with torch.no_grad():
        hidden = policy.hidden(policy.pack([read_to_the_end(ids)]))
    return (hidden @ policy.head.weight.T)[0].detach()


def test_adapters_are_merged_and_apart(left, folder):
    peft = pytest.importorskip("peft")
    merged = AutoModelForCausalLM.from_pretrained(left["rl"])
    start = AutoModelForCausalLM.from_pretrained(folder / "qwen3")
    apart = peft.PeftModel.from_pretrained(start, left["rl"] / "adapter").merge_and_unload()
    assert any(not torch.equal(a, b) for a, b in zip(start_of(folder), merged.parameters(), strict=True))
    for a, b in zip(apart.parameters(), merged.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def start_of(folder):
    return AutoModelForCausalLM.from_pretrained(folder / "qwen3").parameters()


def test_a_reward_model_is_a_backbone_and_a_linear_layer(left):
    """Without fastrl: AutoModel, and the heads on the last token."""
    backbone, info = AutoModel.from_pretrained(left["reward_model"], output_loading_info=True)
    assert not any(info[trouble] for trouble in TROUBLES), info
    heads = load_file(left["reward_model"] / "rubric/heads.safetensors")
    assert heads["weight"].abs().max() > 0
    judges = RubricModel.load(left["reward_model"], CPU, torch.float32)
    with torch.no_grad():
        last = backbone(torch.tensor([PROMPTS[2]])).last_hidden_state[0, -1]
        found = torch.nn.functional.linear(last, heads["weight"], heads["bias"])
        expected = judges([PROMPTS[2]])
    torch.testing.assert_close(found[:-1], expected.level_logits[0].flatten(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[-1], expected.total_logits[0], rtol=1e-5, atol=1e-6)


@pytest.mark.process
@pytest.mark.skipif(unusable() is not None, reason=str(unusable()))
def test_a_plain_vllm_writes_the_trainers_greedy_tokens(left, folder):
    (folder / "prompts.json").write_text(json.dumps(PROMPTS))
    folders = {stage: str(left[stage]) for stage in LANGUAGE_MODELS}
    command = [sys.executable, str(TESTS / "greedy_vllm.py"), str(folder / "prompts.json"), *folders.values()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    for stage, path in folders.items():
        policy = Policy.load(ModelConfig(path=path), CPU)
        assert found[path] == [greedy(policy, prompt, 12) for prompt in PROMPTS], stage


def greedy(policy, prompt, count):
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(next_logits(policy, ids).argmax()))
    return ids[len(prompt) :]


@pytest.mark.process
@pytest.mark.skipif(unusable() is not None, reason=str(unusable()))
def test_the_vllm_engine_takes_a_checkpoint(left):
    from fastrl.engine.vllm.engine import VllmEngine

    engine = VllmEngine(str(left["rl"]), dtype=torch.float32, device=CPU, max_batch_tokens=1024)
    sampling = SamplingParams(max_new_tokens=8, temperature=0)
    (completion,) = engine.generate([PROMPTS[1]], sampling, seeds=[0])[0]
    policy = Policy.load(ModelConfig(path=str(left["rl"])), CPU)
    expected = greedy(policy, PROMPTS[1], 8)
    assert completion.token_ids == expected[: len(completion.token_ids)]


@pytest.mark.parametrize("stage", [*LANGUAGE_MODELS, "reward_model"])
def test_the_card_says_what_it_is(left, folder, stage):
    text = (left[stage] / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    about = yaml.safe_load(front)
    assert about["library_name"] == "transformers" and about["tags"] == ["fastrl", stage]
    assert ("pipeline_tag" in about) == (stage != "reward_model")
    assert "after 2 of 2 steps of" in body and f"| torch | {torch.__version__} |" in body
    recipe = from_dict(yaml.safe_load(body.split("```yaml\n")[1].split("```")[0]))
    assert recipe.stage == stage and recipe.train.num_steps == 2
    data = hashlib.sha256(Path(recipe.data.path).read_bytes()).hexdigest()
    assert f"| {recipe.data.path} | {data} |" in body
    lines = read_metrics(folder / "runs" / stage / "metrics.jsonl")
    assert f"| loss | {lines[-1]['loss']:.4g} | 2 |" in body
    if stage == "rl":
        assert f"| eval/avg@1 | {lines[-1]['eval/avg@1']:.4g} | 2 |" in body
    assert "time/" not in body


def test_the_cards_commands_name_the_folder(left):
    assert f"vllm serve {left['sft'].name}" in (left["sft"] / "README.md").read_text()
