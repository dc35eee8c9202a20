"""Every stage that writes prompts of its data for an engine gives the engine the data's chat template."""

from dataclasses import replace

import pytest
from intervention_world import hard_set_config, intervene_config
from jsonl import write_jsonl

from fastrl.cli.eval import EvalOptions, run_eval
from fastrl.config import DataConfig, ExecutorConfig, PromptedConfig, RlConfig, RunConfig, SubsetConfig
from fastrl.stages.build import build_rl
from fastrl.stages.hard_set import run_hard_set
from fastrl.stages.intervene import run_intervene
from fastrl.stages.subset import run_subset

HARD = {"question": "q", "solution": "1", "reference": "r", "messages": [{"role": "user", "content": "q"}],
        "attempts": [{"sample": 0, "text": "one\ntwo", "verdict": "wrong", "num_tokens": 2}]}  # fmt: skip


class BuiltError(Exception):
    """Ends a stage where it builds its engine."""


def config_of(stage, folder):
    if stage == "intervene":
        return intervene_config("model", folder, write_jsonl(folder / "hard.jsonl", [HARD]))
    if stage == "hard_set":
        return hard_set_config("model", folder)
    data = DataConfig(path=write_jsonl(folder / "a.jsonl", [{"question": "q", "answer": "1"}] * 2))
    return SubsetConfig(run=RunConfig(dir=str(folder / "run"), device="cpu"), data=data, sizes=(1,))


@pytest.mark.parametrize("stage", ["hard_set", "subset", "intervene"])
def test_engines_of_stages(stage, tmp_path, monkeypatch):
    def build(model, engine, device, data=None):
        raise BuiltError(data)

    monkeypatch.setattr(f"fastrl.stages.{stage}.build_engine", build)
    config = config_of(stage, tmp_path)
    config = replace(config, data=replace(config.data, chat_template="none"))
    run = {"hard_set": run_hard_set, "subset": run_subset, "intervene": run_intervene}[stage]
    with pytest.raises(BuiltError) as caught:
        run(config)
    assert caught.value.args == (config.data,)


@pytest.mark.parametrize("executor", ["", "model"])
def test_the_engine_of_eval(checkpoints, tmp_path, monkeypatch, executor):
    def build(model, engine, device, data=None):
        raise BuiltError(data)

    monkeypatch.setattr("fastrl.cli.eval.build_engine", build)
    path = str(checkpoints["qwen3"])
    options = EvalOptions(
        data=DataConfig(
            path=write_jsonl(tmp_path / "a.jsonl", [{"question": "q", "answer": "1"}]), chat_template="none"
        ),
        executor=ExecutorConfig(model=PromptedConfig(path=executor and path), max_new_tokens=8),
        max_new_tokens=8,
        device="cpu",
    )
    with pytest.raises(BuiltError) as caught:
        run_eval(path, options)
    assert caught.value.args == (options.data,)


def test_policy_and_engine_of_rl(checkpoints, tmp_path):
    config = RlConfig()
    config = replace(
        config,
        run=replace(config.run, device="cpu"),
        model=replace(config.model, path=str(checkpoints["qwen3"])),
        data=DataConfig(
            path=write_jsonl(tmp_path / "a.jsonl", [{"question": "q", "answer": "1"}]), chat_template="none"
        ),
    )
    parts = build_rl(config)
    with parts.resources:
        assert parts.policy.tokenizer.chat_template is parts.engine.tokenizer.chat_template is None
