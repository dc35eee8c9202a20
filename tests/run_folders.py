"""Run folders written by hand, as training would leave them, with known values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from jsonl import write_jsonl


def write_stage(folder: Path, config: dict[str, Any], lines: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "environment.json").write_text(json.dumps({"commit": "abc", "packages": {"torch": "2.13.0"}}))
    write_jsonl(folder / "metrics.jsonl", lines)
    return folder


def rl_config(functions: tuple[str, ...] = ("answer", "transfer"), weights: tuple[float, ...] = (1.0, 0.5)):
    return {
        "stage": "rl",
        "reward": {"functions": list(functions), "weights": list(weights)},
        "run": {"seed": 3},
    }


def rl_line(step: int) -> dict[str, Any]:
    """reward = step / 10; a phase of 2 s, one of 1 s, and an engine's half second inside of these."""
    return {
        "step": step, "reward": step / 10, "loss": -step / 100, "entropy": 0.5 / step, "kl": None,
        "grad_norm": 0.1 * step, "completions/mean_length": 20.0 + step, "num_tokens": 100.0,
        "rewards/answer/mean": step / 20, "rewards/answer/std": 0.4,
        "rewards/transfer/mean": step / 10, "rewards/transfer/std": 0.3,
        "engine/policy/requests": 4, "time/policy_decode_s": 0.5, "time/rollout_s": 2.0, "time/update_s": 1.0,
    }  # fmt: skip


def completion_row(number: int, group: int, **columns: Any) -> dict[str, Any]:
    """A rollout of two steps; every other one is right; its one cut lies after "1+2=3\\n"."""
    right = number % 2 == 0
    text = f"1+2=3\n3+{number}={3 + number}\n\\boxed{{{3 + number}}}"
    continuation = {
        "text": f"3+{number}=?",
        "finish_reason": "stop",
        "verdict": "correct" if number % 3 == 0 else "wrong",
    }
    cut = {
        "tau": 0.25, "position": 3, "prefix_chars": 6, "prefix_end": "1+2=3\n", "has_answer": False,
        "continuations": [continuation],
    }  # fmt: skip
    transfer = float(number % 3 == 0)
    return {
        "prompt": f"question {group}", "completion": text, "completion_ids": [1] * (10 + number % 7),
        "rollout_logprobs": [-0.5] * (10 + number % 7), "finish_reason": "stop", "group": group,
        "rewards": {"answer": float(right), "transfer": transfer}, "reward": right + 0.5 * transfer,
        "advantage": 0.0, "verdict": "correct" if right else "wrong", "cuts": [cut],
        **columns,
    }  # fmt: skip


def rl_run(folder: Path, num_steps: int = 3, groups: int = 2, size: int = 4, **columns: Any) -> Path:
    write_stage(folder, rl_config(), [rl_line(step) for step in range(1, num_steps + 1)])
    for step in range(1, num_steps + 1):
        rows = [completion_row(g * size + i, g, **columns) for g in range(groups) for i in range(size)]
        write_jsonl(folder / "completions" / f"step-{step:06d}.jsonl", rows)
    return folder
