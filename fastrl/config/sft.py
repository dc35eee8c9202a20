"""Options of the SFT stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from fastrl.config.base import (
    DataConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
    check_at_least,
    check_positive,
    refuse,
    take_schedule,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SftConfig:
    """Supervised fine-tuning on conversations: JSONL with `messages`, or `prompt` and `completion`."""

    stage: Literal["sft"] = "sft"
    run: RunConfig = field(default_factory=RunConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(learning_rate=1e-5))
    batch_size: int = 64
    """Conversations per step."""
    thinking: Literal["as_is", "drop"] = "as_is"
    """drop: remove the assistant's text between thinking_tags, and the tags; a row without tags is
    refused."""
    thinking_tags: tuple[str, ...] = ("<think>", "</think>")
    """Opening and closing tag of the reasoning."""
    prefix_weight: float = 1.0
    """Loss weight of the tokens of a row's `prefix`; completion tokens have weight 1."""
    max_entropy_rise: float | None = None
    """Stop training when entropy on the trained tokens rises by more than this fraction over the starting
    model's, e.g. 0.2. null: not measured."""

    def __post_init__(self) -> None:
        take_schedule(self, "constant")
        check_positive("sft", self, "batch_size")
        check_at_least("sft", self, 0, "prefix_weight")
        if len(self.thinking_tags) != 2 or not all(self.thinking_tags) or len(set(self.thinking_tags)) != 2:
            refuse("sft", "thinking_tags", "two different texts", self.thinking_tags)
        if self.max_entropy_rise is not None:
            check_at_least("sft", self, 0, "max_entropy_rise")
