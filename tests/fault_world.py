"""A small run for the fault tests: six steps, a checkpoint after every second one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from tiny_rl import tiny_rl, write_additions

from fastrl.config import (
    RlConfig,
    RunConfig,
    TrainConfig,
)

NUM_STEPS = 6


def fault_config(model: Path, folder: Path, name: str = "run", **changes: Any) -> RlConfig:
    base = tiny_rl(
        model, write_additions(folder / "problems.jsonl"), folder / name,
        run=RunConfig(save_every=2, keep_last=9, log_completions_every=3),
        train=TrainConfig(num_steps=NUM_STEPS, learning_rate=1e-3),
    )  # fmt: skip
    return replace(base, **changes)


def bits(folder: Path, step: int = NUM_STEPS) -> dict[str, bytes]:
    """A checkpoint's weights and moments, whatever their order in the files."""
    files = sorted((folder / f"checkpoints/step-{step:06d}").rglob("*.safetensors"))
    assert len(files) == 2
    return {
        f"{file.name} {name}": tensor.numpy().tobytes()
        for file in files
        for name, tensor in load_file(file).items()
    }
