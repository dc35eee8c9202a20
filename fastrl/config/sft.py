"""One SFT stage."""

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
    """Conversations a step."""
    schedule: Schedule = "constant"
    """The learning rate after warm-up; cosine falls to final_share of it at the last step."""
    final_share: float = 0.0
    """The learning rate at the end of a cosine over its peak."""
    thinking: Literal["as_is", "drop"] = "as_is"
    """drop: what the assistant writes between thinking_tags is taken out, and the tags with it; a row without
    them is refused."""
    thinking_tags: tuple[str, ...] = ("<think>", "</think>")
    """What opens a thought, and what closes it."""
    prefix_weight: float = 1.0
    """Of the tokens of a row's `prefix` in the loss; its completion's weigh 1."""
    max_entropy_rise: float | None = None
    """Training ends where trained tokens' entropy is more than this share above what the starting model has
    on them, e.g. 0.2. null: it is not measured."""

    def __post_init__(self) -> None:
        check_positive("sft", self, "batch_size")
        check_at_least("sft", self, 0, "prefix_weight")
        check_share("sft", self, "final_share")
        if len(self.thinking_tags) != 2 or not all(self.thinking_tags) or len(set(self.thinking_tags)) != 2:
            refuse("sft", "thinking_tags", "two different texts", self.thinking_tags)
        if self.max_entropy_rise is not None:
            check_at_least("sft", self, 0, "max_entropy_rise")
