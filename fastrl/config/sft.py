"""One SFT stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from fastrl.config.base import DataConfig, ModelConfig, RunConfig, TrainConfig, check_at_least, check_positive


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
    schedule: Literal["constant", "cosine"] = "constant"
    """The learning rate after warm-up; cosine falls to zero at the last step."""

    prefix_weight: float = 1.0
    """Of the tokens of a row's `prefix` in the loss; its completion's weigh 1."""
    max_entropy_rise: float | None = None
    """Training ends where trained tokens' entropy is more than this share above what the starting model has
    on them, e.g. 0.2. null: it is not measured."""

    def __post_init__(self) -> None:
        check_positive("sft", self, "batch_size")
        check_at_least("sft", self, 0, "prefix_weight")
        if self.max_entropy_rise is not None:
            check_at_least("sft", self, 0, "max_entropy_rise")
