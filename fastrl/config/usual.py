"""The usual options of each stage, which `--help` shows first."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from fastrl.config.pipeline import PipelineConfig

LEARNING = ("run.dir", "run.seed", "run.save_every", "model.path", "model.gradient_checkpointing",
            "model.lora.rank", "data.path", "train.num_steps", "train.learning_rate", "train.warmup_steps",
            "train.tokens_per_microbatch")  # fmt: skip
SAMPLING = ("run.dir", "run.seed", "model.path", "data.path", "data.limit", "engine.kind",
            "engine.max_batch_tokens", "num_samples", "chunk_size")  # fmt: skip
USUAL: dict[str, tuple[str, ...]] = {
    "rl": (
        *LEARNING, "engine.kind", "rollout.num_prompts", "rollout.group_size", "rollout.max_new_tokens",
        "rollout.temperature", "reward.functions", "reward.weights", "transfer.receiver.path",
        "uplift.executor.model.path", "uplift.reward_model", "labels.share", "loss.loss_type", "loss.kl_coef",
        "eval.path", "eval.every",
    ),
    "sft": (*LEARNING, "batch_size", "train.lr_scheduler_type"),
    "cpt": (*LEARNING, "seq_len", "batch_size", "epochs", "train.lr_scheduler_type", "held_out"),
    "reward_model": (
        *LEARNING[:5], "lora.rank", *LEARNING[6:], "eval_path", "task", "groups_per_step", "max_tokens"
    ),
    "groups": (
        "run.dir", "run.seed", "task", "data.path", "data.limit", "negatives", "candidates", "min_negatives",
        "writer.model.path", "judge.model.path", "executor.model.path",
    ),
    "hard_set": (*SAMPLING, "max_correct", "keep_attempts", "sampling.max_new_tokens"),
    "intervene": (
        *SAMPLING[:7], "chunk_size", "proposal.num_samples", "num_continuations",
        "continuation.max_new_tokens", "filter", "select",
    ),
    "subset": (*SAMPLING, "sizes", "noise", "shares", "sampling.max_new_tokens"),
}  # fmt: skip
PIPELINE = ("model.path", "data.path", "data.limit", "train.num_steps", "train.learning_rate",
            "rollout.group_size", "reward.functions", "num_samples", "sizes", "negatives")  # fmt: skip
"""The usual options of a pipeline's stages; folder and seed are options of the pipeline."""


def usual_options(config: Any, options: Collection[str]) -> list[str]:
    """Return the usual ones among a configuration's options, in the same order."""
    if not isinstance(config, PipelineConfig):
        return [name for name in options if name in USUAL[config.stage]]
    usual = {
        f"{name}.{option}"
        for name, stage in config.stages.items()
        for option in USUAL[stage.stage]
        if option in PIPELINE
    }
    return [name for name in options if name in usual or name.startswith("run.")]
