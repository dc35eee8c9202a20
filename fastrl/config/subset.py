"""One subset stage: scarce data and noisy labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from fastrl.config.answer import AnswerConfig
from fastrl.config.base import (
    CheckpointConfig,
    DataConfig,
    RunConfig,
    check_at_least,
    check_only_asked,
    check_positive,
    refuse,
)
from fastrl.config.engine import EngineConfig
from fastrl.config.hard_set import SamplingConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class SubsetConfig:
    """Few problems of every difficulty, and labels that are wrong on purpose (arXiv 2604.18574)."""

    stage: Literal["subset"] = "subset"
    run: RunConfig = field(default_factory=RunConfig)
    model: CheckpointConfig = field(default_factory=CheckpointConfig)
    """Whose successes say how difficult a problem is: the model that will be trained."""
    data: DataConfig = field(default_factory=DataConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    num_samples: int = 16
    """k >= 2: rollouts a problem. Those that k - 1 to 1 of them solve are kept."""
    sizes: tuple[int, ...] = (8, 64, 512)
    """Problems of each subset, rising; a smaller one is inside every larger one."""
    noise: Literal["none", "most_frequent_wrong", "random"] = "none"
    """Where wrong labels come from: the wrong answer that most rollouts gave, or another problem's gold
    answer."""
    shares: tuple[float, ...] = ()
    """Of each subset, floor(share * size) labels are wrong, in a file a share; rising, in (0, 1]."""
    sampling: SamplingConfig = field(
        default_factory=lambda: SamplingConfig(temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=2048)
    )
    answer: AnswerConfig = field(default_factory=AnswerConfig)
    chunk_size: int = 64
    """Problems sampled at once; what is done is kept after each chunk."""

    def __post_init__(self) -> None:
        check_only_asked("subset", "model", self.model)
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
