"""Checks of a reward-model stage before a model is loaded: backbone, files, packages."""

from __future__ import annotations

from fastrl.check.model import check_model, load_tokenizer
from fastrl.config import RewardModelConfig
from fastrl.methods.tracelift.rubric_batches import read_task_groups
from fastrl.methods.tracelift.rubric_model import check_room
from fastrl.policy.lora import check_peft


def check_reward_model(config: RewardModelConfig) -> None:
    """Check a reward-model stage.

    Raises:
        ValueError, FileNotFoundError: one line, `[section] field: expected ..., got ...`.
    """
    check_peft(config.lora)
    check_room(check_model("model", config.model), config.max_tokens)
    load_tokenizer("model", config.model)
    read_task_groups(config.data.path, config.task, config.data.limit)
    if config.eval_path is not None:
        read_task_groups(config.eval_path, config.task)
