"""Options of the reward-model stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from fastrl.config.base import (
    AdapterConfig,
    BackboneConfig,
    DataConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
    check_at_least,
    check_no_template,
    check_positive,
    refuse,
    take_schedule,
)
from fastrl.types import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig(AdapterConfig):
    """LoRA adapters of the backbone, with dropout on the input of A."""

    alpha: float = 64.0
    """Scale: the update is multiplied by alpha / rank."""
    dropout: float = 0.05
    """Dropout probability on the input of A."""

    def __post_init__(self) -> None:
        AdapterConfig.__post_init__(self)
        check_at_least("lora", self, 0, "dropout")


@dataclass(frozen=True, slots=True, kw_only=True)
class RubricLossConfig:
    """L = dimension * cross-entropy of the five rubric heads + total * Huber + ranking * pairwise ranking."""

    dimension: float = 1.0
    """Weight of the cross-entropy of the five rubric dimensions."""
    total: float = 0.5
    """Weight of the Huber loss of the total score."""
    ranking: float = 0.7
    """Weight of the ranking loss over (positive, negative) pairs."""
    num_negatives: int = 4
    """Negatives per group and step, resampled each step; with repetition if the group has fewer."""

    def __post_init__(self) -> None:
        check_at_least("loss", self, 0, "dimension", "total", "ranking")
        check_positive("loss", self, "num_negatives")


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardModelConfig:
    """Training of a reasoning reward model on groups of traces (`fastrl groups build`)."""

    stage: Literal["reward_model"] = "reward_model"
    run: RunConfig = field(default_factory=RunConfig)
    model: BackboneConfig = field(default_factory=BackboneConfig)
    """The backbone to start from."""
    task: Task = "math"
    """Rubric: math or code."""
    data: DataConfig = field(default_factory=DataConfig)
    """data.path: groups to train on, JSONL or Parquet. Of the other options only limit is used."""
    eval_path: str | None = None
    """Held-out groups, evaluated before the first step and at every checkpoint. null: no evaluation."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    loss: RubricLossConfig = field(default_factory=RubricLossConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(learning_rate=1e-4, weight_decay=0.01))
    groups_per_step: int = 128
    """Groups per step."""
    max_tokens: int = 3072
    """Longest input, at most the backbone's context; longer ones are truncated at the start of the
    problem."""

    def __post_init__(self) -> None:
        take_schedule(self, "constant")
        if isinstance(self.model, ModelConfig):
            refuse(
                "reward_model",
                "model",
                "a BackboneConfig, since adapters are the section lora",
                "ModelConfig",
            )
        check_no_template("reward_model", self.data)
        check_positive("reward_model", self, "groups_per_step", "max_tokens")
