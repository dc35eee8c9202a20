"""Whole RL steps with a real vLLM as policy engine and as receiver, and how engines are chosen."""

from dataclasses import replace
from pathlib import Path

import pytest
from engine_cases import CPU
from tiny_rl import tiny_rl, write_additions
from vllm_cases import write

from fastrl.check import check_config
from fastrl.config import (
    CheckpointConfig,
    EngineConfig,
    EvalConfig,
    ReceiverEngineConfig,
    RewardConfig,
    RlConfig,
    RunConfig,
    TrainConfig,
    TransferConfig,
)
from fastrl.config.engines import engine_table
from fastrl.config.load import from_dict, load_config, to_dict
from fastrl.engine.build import build_engine
from fastrl.engine.vllm import adapter as vllm_adapter
from fastrl.runtime.run import read_metrics
from fastrl.tools.doctor import machine as doctor
from fastrl.train import run_stage

needs_vllm = pytest.mark.skipif(vllm_adapter.unusable() is not None, reason=str(vllm_adapter.unusable()))


@pytest.fixture
def config(tmp_path, tmp_path_factory) -> RlConfig:
    models = tmp_path_factory.getbasetemp() / "vllm-training"
    return tiny_rl(
        write(models / "qwen3", "qwen3"), write_additions(tmp_path / "problems.jsonl"), tmp_path / "run",
        run=RunConfig(device="cpu"),
        engine=EngineConfig(max_batch_tokens=4096),
        reward=RewardConfig(
            functions=("answer", "reward_functions.vowels", "transfer"), weights=(1.0, 1.0, 1.0)
        ),
        transfer=TransferConfig(
            receiver=CheckpointConfig(path=str(write(models / "llama", "llama"))), slack_tokens=4
        ),
        train=TrainConfig(num_steps=2, learning_rate=1e-3),
    )  # fmt: skip


def vllm(config: RlConfig, section: str, **options) -> RlConfig:
    options = {"kind": "vllm", "max_batch_tokens": 4096, **options}
    if section == "engine":
        return replace(config, engine=EngineConfig(**options))
    return replace(config, transfer=replace(config.transfer, engine=ReceiverEngineConfig(**options)))


@needs_vllm
def test_rlvr_with_vllm(config):
    config = vllm(config, "engine")
    plain = replace(config, reward=RewardConfig(functions=config.reward.functions[:2], weights=(1.0, 1.0)))
    run_stage(replace(plain, eval=EvalConfig(path=config.data.path, num_samples=2)))
    lines = read_metrics(Path(config.run.dir) / "metrics.jsonl")
    assert [line["step"] for line in lines] == [0, 1, 2]
    for line in lines[1:]:  # engine and trainer are two computations of the same numbers, after an update too
        assert abs(line["sampling/importance_sampling_ratio/mean"] - 1) < 1e-4
        assert line["grad_norm"] > 0
    assert any(name.startswith("eval/") for name in lines[0])


@needs_vllm
def test_the_next_batch_is_sampled_during_the_update(config):
    """vLLM samples in another thread than the one that started it and loads its weights."""
    config = vllm(config, "engine")
    run_stage(
        replace(
            config,
            rollout=replace(config.rollout, max_staleness=1),
            train=replace(config.train, num_steps=3),
        )
    )
    lines = read_metrics(Path(config.run.dir) / "metrics.jsonl")[1:]
    assert [line["rollout/staleness"] for line in lines] == [0, 1, 1]
    assert lines[0]["drift/ess_tokens"] > 0.9999 > lines[1]["drift/ess_tokens"]


@needs_vllm
@pytest.mark.parametrize("sections", [["transfer.engine"], ["engine"]])
def test_rltr_with_vllm_behind_receiver_or_both(config, sections):
    """The receiver alone; or both, by `same`, each with its memory only while it works."""
    for section in sections:
        config = vllm(config, section, sleep=section == "engine")
    run_stage(config)
    lines = read_metrics(Path(config.run.dir) / "metrics.jsonl")
    assert [line["step"] for line in lines] == [0, 1, 2]
    for line in lines[1:]:
        assert abs(line["sampling/importance_sampling_ratio/mean"] - 1) < 1e-4
        assert 0 <= line["rewards/transfer/mean"] <= 1


def test_sleeping_engines_change_no_curve(config, tmp_path):
    curves = []
    for name, sleep in (("awake", False), ("asleep", True)):
        engine = EngineConfig(sleep=sleep, max_batch_tokens=4096)
        run_stage(replace(config, engine=engine, run=replace(config.run, dir=str(tmp_path / name))))
        lines = read_metrics(tmp_path / name / "metrics.jsonl")
        curves.append([{k: v for k, v in line.items() if not k.startswith("time/")} for line in lines])
    assert curves[0] == curves[1]


def test_each_engine_is_one_flag():
    config = load_config("rltr", ["--engine.kind", "vllm"])
    shared = engine_table(config)["receiver"]
    assert shared.engine is config.engine and shared.section == "engine" and config.engine.kind == "vllm"
    config = load_config("rltr", ["--transfer.engine.kind", "vllm", "--engine.max_batch_tokens", "999"])
    assert config.engine == EngineConfig(max_batch_tokens=999)
    own = engine_table(config)["receiver"]
    assert own.engine == ReceiverEngineConfig(kind="vllm") and own.section == "transfer.engine"
    assert from_dict(to_dict(config)) == config


@pytest.mark.parametrize(
    "sections, message",
    [
        ({"engine": {"kind": "same"}}, r"\[engine\] kind: expected torch or vllm, got 'same'"),
        (
            {"transfer": {"engine": {"sleep": True}}},
            r"\[engine\] kind: .*, since sleep is set, got 'same'",
        ),
        ({"engine": {"enforce_eager": True}}, r"\[engine\] enforce_eager: expected false"),
    ],
)
def test_settings_that_would_mean_nothing_are_refused(sections, message):
    with pytest.raises(ValueError, match=message):
        from_dict({"stage": "rl", **sections})


@pytest.mark.parametrize(
    "found, message",
    [
        (None, "vllm is not installed: pip install 'vllm>=0.31,<0.34' on a machine with a GPU"),
        ("0.30.1", "vllm 0.30.1 is installed, but >= 0.31 and < 0.34 is supported"),
        ("0.34.0", "vllm 0.34.0 is installed, but >= 0.31 and < 0.34 is supported"),
    ],
)
def test_a_vllm_that_does_not_fit_is_refused_before_a_model_is_loaded(config, monkeypatch, found, message):
    monkeypatch.setattr(vllm_adapter, "package_version", lambda name: found if name == "vllm" else None)
    for section in ("engine", "transfer.engine"):
        with pytest.raises(ValueError) as refused:
            check_config(vllm(config, section))
        assert str(refused.value).startswith(f"[{section}] kind: expected a usable vllm, got: {message}")
    check_config(config)
    with pytest.raises(ValueError, match=r"^\[engine\] kind: expected a usable vllm, got: vllm "):
        build_engine(config.model, EngineConfig(kind="vllm"), CPU)
    line = doctor.vllm_line()
    assert line.subject == "vllm" and (found or "not installed") in line.finding
    assert line.status == ("info" if found is None else "warn")


def test_one_request_must_fit_the_receivers_own_engine(config):
    small = ReceiverEngineConfig(kind="torch", max_batch_tokens=20)
    with pytest.raises(ValueError, match=r"^\[transfer\.engine\] max_batch_tokens: expected >= 23, got 20"):
        check_config(replace(config, transfer=replace(config.transfer, engine=small)))


def test_a_torchvision_for_cuda_is_named(monkeypatch):
    def broken(name):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(vllm_adapter, "package_version", lambda name: "0.32.0")
    monkeypatch.setattr(vllm_adapter.torch.version, "cuda", None)
    monkeypatch.setattr(vllm_adapter.importlib, "import_module", broken)
    assert vllm_adapter.unusable() == (
        "torchvision is built for CUDA and torch is not (operator torchvision::nms does not exist): "
        "pip uninstall torchvision"
    )
