"""One reward-model stage."""

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
)
from fastrl.types import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig(AdapterConfig):
    """Adapters of the backbone, with dropout on what goes into A."""

    alpha: float = 64.0
    dropout: float = 0.05

    def __post_init__(self) -> None:
        AdapterConfig.__post_init__(self)
        check_at_least("lora", self, 0, "dropout")


@dataclass(frozen=True, slots=True, kw_only=True)
class RubricLossConfig:
    """L = dimension * cross-entropy of the five heads + total * Huber + ranking * pairs."""

    dimension: float = 1.0
    total: float = 0.5
    ranking: float = 0.7
    num_negatives: int = 4
    """Negatives of a group in a step, drawn anew; with repetition where it has fewer."""

    def __post_init__(self) -> None:
        check_at_least("loss", self, 0, "dimension", "total", "ranking")
        check_positive("loss", self, "num_negatives")


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardModelConfig:
    """A reasoning reward model, from groups of traces (`fastrl groups build`)."""

    stage: Literal["reward_model"] = "reward_model"
    run: RunConfig = field(default_factory=RunConfig)
    model: BackboneConfig = field(default_factory=BackboneConfig)
    """The backbone to start from."""
    task: Task = "math"
    """Which rubric: math or code."""
    data: DataConfig = field(default_factory=DataConfig)
    """data.path: groups to train on, JSONL or Parquet; limit is the only other option that is used."""
    eval_path: str | None = None
    """Held-out groups, judged before the first step and with every checkpoint. null: no evaluation."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    loss: RubricLossConfig = field(default_factory=RubricLossConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(learning_rate=1e-4, weight_decay=0.01))
    groups_per_step: int = 128
    max_tokens: int = 3072
    """A longer input loses the beginning of its problem. At most what the backbone's positions hold."""
    schedule: Literal["constant", "cosine"] = "constant"
    """The learning rate after warm-up; cosine falls to zero at the last step."""

    def __post_init__(self) -> None:
        if isinstance(self.model, ModelConfig):
            refuse(
                "reward_model",
                "model",
                "a BackboneConfig, since adapters are the section lora",
                "ModelConfig",
            )
        check_no_template("reward_model", self.data)
        check_positive("reward_model", self, "groups_per_step", "max_tokens")
