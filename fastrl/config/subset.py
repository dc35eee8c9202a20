"""Options of the subset stage: scarce data and noisy labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from fastrl.config.answer import AnswerConfig
from fastrl.config.base import (
    CheckpointConfig,
    DataConfig,
    RunConfig,
    check_at_least,
    check_frozen,
    check_positive,
    refuse,
)
from fastrl.config.engine import EngineConfig
from fastrl.config.hard_set import SamplingConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class SubsetConfig:
    """Small subsets of every difficulty, with optional label noise (arXiv 2604.18574)."""

    stage: Literal["subset"] = "subset"
    run: RunConfig = field(default_factory=RunConfig)
    model: CheckpointConfig = field(default_factory=CheckpointConfig)
    """The model to be trained later; its success rate defines a problem's difficulty."""
    data: DataConfig = field(default_factory=DataConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    num_samples: int = 16
    """k >= 2 rollouts per problem. Problems with 1 to k - 1 correct rollouts are kept."""
    sizes: tuple[int, ...] = (8, 64, 512)
    """Number of problems in each subset, rising; the subsets are nested."""
    noise: Literal["none", "most_frequent_wrong", "random"] = "none"
    """Source of wrong labels: the most frequent wrong answer of the rollouts, or another problem's gold
    answer."""
    shares: tuple[float, ...] = ()
    """Noise levels, rising, in (0, 1]: for each a file in which floor(share * size) labels are wrong."""
    sampling: SamplingConfig = field(
        default_factory=lambda: SamplingConfig(temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=2048)
    )
    answer: AnswerConfig = field(default_factory=AnswerConfig)
    chunk_size: int = 64
    """Problems sampled at once. Results are saved after each chunk, and a restart resumes there."""

    def __post_init__(self) -> None:
        check_frozen("subset", "model", self.model)
        check_positive("subset", self, "chunk_size")
        check_at_least("subset", self, 2, "num_samples")
        if not self.sizes or self.sizes[0] < 1 or list(self.sizes) != sorted(set(self.sizes)):
            refuse("subset", "sizes", "rising numbers > 0", self.sizes)
        in_range = all(0 < share <= 1 for share in self.shares)
        if not in_range or list(self.shares) != sorted(set(self.shares)):
            refuse("subset", "shares", "rising numbers in (0, 1]", self.shares)
        if self.shares and self.noise == "none":
            refuse("subset", "noise", "most_frequent_wrong or random, since shares are given", self.noise)
        if self.engine.kind == "same":
            refuse("engine", "kind", "torch or vllm", self.engine.kind)
