"""Records of an RL run: the line of a completion, and the score of a checkpoint."""

from __future__ import annotations

import math
from typing import Any

from fastrl.config import RlConfig
from fastrl.policy.checkpoint import SCORE
from fastrl.training.parts import Parts
from fastrl.types import Metrics, Rollout


def completion_row(parts: Parts, rollout: Rollout) -> dict[str, Any]:
    """Return the line of a rollout in completions/step-N.jsonl."""
    return {
        "prompt": parts.policy.tokenizer.decode(rollout.prompt_ids),
        "completion": rollout.text,
        "completion_ids": rollout.completion_ids,
        "rollout_logprobs": rollout.rollout_logprobs,
        "finish_reason": rollout.finish_reason,
        "group": rollout.group,
        "rewards": rollout.rewards,
        "reward": rollout.reward,
        "advantage": rollout.advantage,
        **rollout.extras,
    }


def checkpoint_score(metrics: Metrics, config: RlConfig) -> dict[str, float]:
    """Return the metric of run.keep_best for a checkpoint's state; empty if it was not measured.

    Raises:
        ValueError: the evaluation has no such metric.
    """
    name, measured = config.run.keep_best, sorted(metric for metric in metrics if metric.startswith("eval/"))
    if not name or not measured:
        return {}
    if name not in metrics:
        raise ValueError(f"[run] keep_best: expected one of {', '.join(measured)}, got {name!r}")
    return {SCORE: metrics[name]} if math.isfinite(metrics[name]) else {}
