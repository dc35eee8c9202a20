"""One hard-set stage, and what it shares with interventions: how is sampled."""

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
from fastrl.types import SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingConfig:
    """How tokens are drawn."""

    temperature: float = 0.7
    """0 is greedy."""
    top_p: float = 0.8
    top_k: int = 20
    """0: off."""
    max_new_tokens: int = 16384
    """Longest completion, in tokens."""
    stop: tuple[str, ...] = ()
    """Strings that end a completion, beside the tokenizer's end token."""

    def __post_init__(self) -> None:
        check_positive("sampling", self, "max_new_tokens")
        check_at_least("sampling", self, 0, "temperature", "top_k")
        if not 0 < self.top_p <= 1:
            refuse("sampling", "top_p", "a number in (0, 1]", self.top_p)

    @property
    def params(self) -> SamplingParams:
        """As engines take it."""
        return SamplingParams(
            temperature=self.temperature, top_p=self.top_p, top_k=self.top_k,
            max_new_tokens=self.max_new_tokens, stop=self.stop,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class HardSetConfig:
    """Problems that a model does not solve, with its failed attempts (InT, arXiv 2601.14209)."""

    stage: Literal["hard_set"] = "hard_set"
    run: RunConfig = field(default_factory=RunConfig)
    model: CheckpointConfig = field(default_factory=CheckpointConfig)
    data: DataConfig = field(default_factory=DataConfig)
    """Problems with a worked reference solution beside the gold answer."""
    reference_column: str | None = None
    """The worked solution. null: reference, reference_solution, rationale, solution or answer, whichever
    comes first and says more than the gold answer. Problems without one are counted and not sampled."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    num_samples: int = 64
    """Rollouts a problem."""
    max_correct: int = 0
    """A problem is hard where at most so many of them are right."""
    keep_attempts: int = 4
    """Failed rollouts kept of a hard problem: different ones that came to their end, drawn by the seed."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    answer: AnswerConfig = field(default_factory=AnswerConfig)
    chunk_size: int = 64
    """Problems sampled at once; what is done is kept after each chunk."""

    def __post_init__(self) -> None:
        check_only_asked("hard_set", "model", self.model)
        check_positive("hard_set", self, "num_samples", "keep_attempts", "chunk_size")
        check_at_least("hard_set", self, 0, "max_correct")
        if self.max_correct >= self.num_samples:
            refuse("hard_set", "max_correct", f"< num_samples = {self.num_samples}", self.max_correct)
        if self.engine.kind == "same":
            refuse("engine", "kind", "torch or vllm", self.engine.kind)
