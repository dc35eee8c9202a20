"""Options of the continual pre-training stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from fastrl.config.base import (
    ModelConfig,
    RunConfig,
    TrainConfig,
    check_at_least,
    check_positive,
    take_schedule,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextConfig:
    """Documents of raw text."""

    path: str = ""
    """JSONL, Parquet or CSV with one document per row; a .txt file, one document; or a folder of .txt
    files."""
    text_column: str = "text"
    """Column with the text."""
    limit: int | None = None
    """Use only the first `limit` documents."""

    def __post_init__(self) -> None:
        if self.limit is not None:
            check_positive("data", self, "limit")


@dataclass(frozen=True, slots=True, kw_only=True)
class CptConfig:
    """Continual pre-training: next-token prediction on raw text, within each document."""

    stage: Literal["cpt"] = "cpt"
    run: RunConfig = field(default_factory=RunConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: TextConfig = field(default_factory=TextConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(learning_rate=2e-5, weight_decay=0.01))
    seq_len: int = 2048
    """Tokens per packed row. A row may hold several documents; a longer document continues in the next
    row."""
    batch_size: int = 128
    """Rows per step."""
    epochs: int | None = None
    """Passes over the text; they set the number of steps. null: train.num_steps sets it."""
    held_out: str | None = None
    """Held-out text in a form that data.path accepts; its loss is measured before the first step and after
    the last. null: none."""
    held_out_every: int = 0
    """Also measure the held-out loss every so many steps; 0: never."""

    def __post_init__(self) -> None:
        take_schedule(self, "cosine")
        check_at_least("cpt", self, 2, "seq_len")
        check_at_least("cpt", self, 0, "held_out_every")
        check_positive("cpt", self, "batch_size")
        if self.epochs is not None:
            check_positive("cpt", self, "epochs")
