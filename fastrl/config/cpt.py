"""One stage of continual pre-training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from fastrl.config.base import ModelConfig, RunConfig, TrainConfig, check_at_least, check_positive
from fastrl.config.sft import Schedule, check_share


@dataclass(frozen=True, slots=True, kw_only=True)
class TextConfig:
    """Raw text, in documents."""

    path: str = ""
    """JSONL, Parquet or CSV: a row is a document. A .txt file is one; a folder has one in each .txt file."""
    text_column: str = "text"
    """Of rows, the column with the text."""
    limit: int | None = None
    """Use the first `limit` documents only."""

    def __post_init__(self) -> None:
        if self.limit is not None:
            check_positive("data", self, "limit")


@dataclass(frozen=True, slots=True, kw_only=True)
class CptConfig:
    """Continual pre-training: every token of raw text, given those of its document before it."""

    stage: Literal["cpt"] = "cpt"
    run: RunConfig = field(default_factory=RunConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: TextConfig = field(default_factory=TextConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(learning_rate=2e-5, weight_decay=0.01))
    seq_len: int = 2048
    """Tokens that are packed into a row, of one document or several; a longer one goes on in the next row."""
    batch_size: int = 128
    """Rows a step."""
    epochs: int | None = None
    """Passes over the text, which then say when training ends; null: train.num_steps does."""
    schedule: Schedule = "cosine"
    """The learning rate after warm-up; cosine falls to final_share of it at the last step."""
    final_share: float = 0.0
    """The learning rate at the end of a cosine over its peak."""
    held_out: str | None = None
    """Text as in data.path, measured before the first step and after the last. null: none is."""
    held_out_every: int = 0
    """It is measured every so many steps, too; 0: it is not."""

    def __post_init__(self) -> None:
        check_at_least("cpt", self, 2, "seq_len")
        check_at_least("cpt", self, 0, "held_out_every")
        check_positive("cpt", self, "batch_size")
        check_share("cpt", self, "final_share")
        if self.epochs is not None:
            check_positive("cpt", self, "epochs")
