"""A small RL run: problems of addition, a tiny checkpoint, a reward that varies, a few steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from jsonl import write_jsonl

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

# A random model answers nothing; the share of vowels in its text stands for a reward that varies.
VOWELS = RewardConfig(functions=("reward_functions.vowels",), weights=(1.0,))
ANSWER_AND_VOWELS = RewardConfig(functions=("answer", "reward_functions.vowels"), weights=(1.0, 1.0))


def write_additions(path: Path, count: int = 12) -> str:
    """Write the problems 0+1, 1+2, …; return the path, as configurations take it."""
    rows = [{"question": f"{a}+{a + 1}", "answer": str(2 * a + 1)} for a in range(count)]
    return write_jsonl(path, rows)


def tiny_rl(model: Path | str, problems: Path | str, folder: Path | str, /, **changes: Any) -> RlConfig:
    """Return four steps of three groups of four on this checkpoint and these problems.

    changes: sections by name, as RlConfig takes them; RunConfig without dir gets this folder.
    """
    base = RlConfig(
        run=RunConfig(dir=str(folder)),
        model=ModelConfig(path=str(model)),
        data=DataConfig(path=str(problems)),
        rollout=RolloutConfig(num_prompts=3, group_size=4, max_new_tokens=12),
        reward=ANSWER_AND_VOWELS,
        train=TrainConfig(num_steps=4, learning_rate=1e-3),
    )
    if "run" in changes:
        changes["run"] = replace(changes["run"], dir=str(folder))
    return replace(base, **changes)


def curve(folder: Path) -> list[dict[str, Any]]:
    """Return what a run logged of every step, times left out."""
    lines = read_metrics(folder / "metrics.jsonl")
    return [{name: value for name, value in line.items() if not name.startswith("time/")} for line in lines]
