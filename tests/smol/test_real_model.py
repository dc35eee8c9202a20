"""SmolLM2-135M-Instruct: the conversion's hash, the engine against transformers, the recipes."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from places import SHARED_DATA
from transformers import AutoModelForCausalLM

from fastrl.check import check_config
from fastrl.config import DataConfig
from fastrl.config.load import load_config
from fastrl.data import load_problems, render_prompt, render_prompt_text
from fastrl.engine.tree.engine import TorchEngine
from fastrl.smol.checkpoint import PACKAGES, check_weights
from fastrl.smol.exercise import REQUEST
from fastrl.smol.kinds import KINDS
from fastrl.smol.world import build_world
from fastrl.stages.pipeline import check_pipeline
from fastrl.types import SamplingParams

missing = [name for name in PACKAGES if find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed: make smol")
GSM8K = SHARED_DATA / "gsm8k_test.jsonl"
START = "runs/sft-smol/checkpoints/step-000024"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory with smol-world, whose model stands for what sft-smol leaves too; 540 MB."""
    made = tmp_path_factory.mktemp("real")
    build_world(made / "smol-world")
    (made / START).parent.mkdir(parents=True)
    (made / START).symlink_to(made / "smol-world/model")
    yield made
    shutil.rmtree(made / "smol-world")


@pytest.fixture(autouse=True)
def inside(folder, monkeypatch):
    monkeypatch.chdir(folder)


@pytest.fixture(scope="module")
def engine(folder):
    return TorchEngine.from_pretrained(
        str(folder / "smol-world/model"), dtype=torch.float32, device=torch.device("cpu")
    )


def problems(kind, count):
    return load_problems(DataConfig(path=f"smol-world/{kind}-test.jsonl", limit=count))


def test_it_is_a_plain_folder_with_the_committed_weights():
    check_weights(Path("smol-world/model"))
    names = {file.name for file in Path("smol-world/model").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= names


def test_the_prompt_is_the_models_own_chat(engine):
    (problem,) = problems("chains", 1)
    system, user, opened = render_prompt_text(engine.tokenizer, problem.messages).split("<|im_start|>")[1:]
    assert system.startswith("system\nYou are a helpful AI assistant named SmolLM")
    assert user == f"user\n{problem.question}<|im_end|>\n" and opened == "assistant\n"
    assert engine.tokenizer.eos_token == "<|im_end|>"


def test_greedy_tokens_and_logprobs_are_transformers(engine):
    """A token counts as greedy within rounding: another sum may turn two that are equally likely."""
    asked = [problem for kind in KINDS for problem in problems(kind, 4)][:10]
    prompts = [render_prompt(engine.tokenizer, problem.messages) for problem in asked]
    found = engine.generate(prompts, SamplingParams(max_new_tokens=24, temperature=0), seeds=[0] * 10)
    model = AutoModelForCausalLM.from_pretrained("smol-world/model", dtype=torch.float32).eval()
    assert len({tuple(completion.token_ids) for (completion,) in found}) > 5
    for prompt, (completion,) in zip(prompts, found, strict=True):
        tokens = torch.tensor(completion.token_ids)
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *tokens]]), use_cache=False).logits[0]
        expected = logits[len(prompt) - 1 : -1].log_softmax(-1)
        own = expected.gather(1, tokens[:, None])[:, 0]
        torch.testing.assert_close(own, expected.amax(1), rtol=0, atol=1e-4)
        torch.testing.assert_close(torch.tensor(completion.logprobs), own, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["sft-smol", "rlvr-smol", "rltr-smol"])
def test_recipes_are_ready_to_run(name):
    check_config(load_config(name))


def test_the_pipeline_is_ready_to_run():
    check_pipeline(load_config("weak-smol"), check_config)


def test_countdown_and_adapters_are_flags_away():
    countdown = ["--data.path", "smol-world/countdown-train.jsonl", "--reward.functions",
                 "fastrl.smol.rewards.countdown", "format"]  # fmt: skip
    check_config(load_config("rlvr-smol", countdown))
    check_config(load_config("rlvr-smol", ["--model.lora.rank", "16"]))


@pytest.mark.skipif(not GSM8K.is_file(), reason=f"no benchmark file {GSM8K}")
def test_gsm8k_from_a_file():
    files = ["--data.path", str(GSM8K), "--eval.path", str(GSM8K), "--rollout.max_new_tokens", "256"]
    check_config(load_config("rlvr-smol", [*files, "--data.prompt_template", f"{{question}} {REQUEST}"]))
