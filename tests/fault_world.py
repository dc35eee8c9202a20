"""The small run that faults strike: six steps, a checkpoint after every other one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from jsonl import write_jsonl
from safetensors.torch import load_file

from fastrl.config import (
    DataConfig,
    ModelConfig,
    RewardConfig,
    RlConfig,
    RolloutConfig,
    RunConfig,
    TrainConfig,
)
from fastrl.runtime.run import read_metrics

NUM_STEPS = 6


def fault_config(model: Path, folder: Path, name: str = "run", **changes: Any) -> RlConfig:
    problems = folder / "problems.jsonl"
    rows = [{"question": f"{a}+{a + 1}", "answer": str(2 * a + 1)} for a in range(12)]
    write_jsonl(problems, rows)
    base = RlConfig(
        run=RunConfig(dir=str(folder / name), save_every=2, keep_last=9, log_completions_every=3),
        model=ModelConfig(path=str(model)),
        data=DataConfig(path=str(problems)),
        rollout=RolloutConfig(num_prompts=3, group_size=4, max_new_tokens=12),
        reward=RewardConfig(functions=("answer", "reward_functions.vowels"), weights=(1.0, 1.0)),
        train=TrainConfig(num_steps=NUM_STEPS, learning_rate=1e-3),
    )
    return replace(base, **changes)


def curve(folder: Path) -> list[dict[str, Any]]:
    lines = read_metrics(folder / "metrics.jsonl")
    return [{key: value for key, value in line.items() if "time/" not in key} for line in lines]


def bits(folder: Path, step: int = NUM_STEPS) -> dict[str, bytes]:
    """A checkpoint's weights and moments, whatever their order in the files."""
    files = sorted((folder / f"checkpoints/step-{step:06d}").rglob("*.safetensors"))
    assert len(files) == 2
    return {
        f"{file.name} {name}": tensor.numpy().tobytes()
        for file in files
        for name, tensor in load_file(file).items()
    }
