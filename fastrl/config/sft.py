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
)

Schedule = Literal["constant", "cosine"]


def check_share(section: str, config: object, name: str) -> None:
    """Raise ValueError unless the option is in [0, 1]."""
    if not 0 <= getattr(config, name) <= 1:
        refuse(section, name, "a number in [0, 1]", getattr(config, name))


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
    schedule: Schedule = "constant"
    """Learning rate after warm-up: constant, or a cosine decay to final_share of the peak."""
    final_share: float = 0.0
    """Final learning rate of the cosine, as a fraction of the peak."""
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
        check_positive("sft", self, "batch_size")
        check_at_least("sft", self, 0, "prefix_weight")
        check_share("sft", self, "final_share")
        if len(self.thinking_tags) != 2 or not all(self.thinking_tags) or len(set(self.thinking_tags)) != 2:
            refuse("sft", "thinking_tags", "two different texts", self.thinking_tags)
        if self.max_entropy_rise is not None:
            check_at_least("sft", self, 0, "max_entropy_rise")
