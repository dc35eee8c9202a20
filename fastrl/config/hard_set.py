"""Options of the hard-set stage, and the sampling options that other stages share."""

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
from fastrl.types import SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingConfig:
    """Sampling of completions."""

    temperature: float = 0.7
    """Sampling temperature; 0 is greedy."""
    top_p: float = 0.8
    """Nucleus sampling, in (0, 1]; 1: off."""
    top_k: int = 20
    """Sample from the k most likely tokens; 0: off."""
    max_new_tokens: int = 16384
    """Longest completion, in tokens."""
    stop: tuple[str, ...] = ()
    """Stop strings, in addition to the tokenizer's end token."""

    def __post_init__(self) -> None:
        check_positive("sampling", self, "max_new_tokens")
        check_at_least("sampling", self, 0, "temperature", "top_k")
        if not 0 < self.top_p <= 1:
            refuse("sampling", "top_p", "a number in (0, 1]", self.top_p)

    @property
    def params(self) -> SamplingParams:
        """The parameters as engines take them."""
        return SamplingParams(
            temperature=self.temperature, top_p=self.top_p, top_k=self.top_k,
            max_new_tokens=self.max_new_tokens, stop=self.stop,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class HardSetConfig:
    """Collection of problems that a model fails, with its failed attempts (InT, arXiv 2601.14209)."""

    stage: Literal["hard_set"] = "hard_set"
    run: RunConfig = field(default_factory=RunConfig)
    model: CheckpointConfig = field(default_factory=CheckpointConfig)
    data: DataConfig = field(default_factory=DataConfig)
    """Problems with a worked reference solution as well as the gold answer."""
    reference_column: str | None = None
    """Column of the worked solution. null: the first of reference, reference_solution, rationale, solution
    and answer that says more than the gold answer. Problems without one are counted and skipped."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    num_samples: int = 64
    """Rollouts per problem."""
    max_correct: int = 0
    """A problem is hard if at most this many of its rollouts are correct."""
    keep_attempts: int = 4
    """Failed rollouts kept per hard problem: distinct, not truncated, drawn by the seed."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    answer: AnswerConfig = field(default_factory=AnswerConfig)
    chunk_size: int = 64
    """Problems sampled at once. Results are saved after each chunk, and a restart resumes there."""

    def __post_init__(self) -> None:
        check_frozen("hard_set", "model", self.model)
        check_positive("hard_set", self, "num_samples", "keep_attempts", "chunk_size")
        check_at_least("hard_set", self, 0, "max_correct")
        if self.max_correct >= self.num_samples:
            refuse("hard_set", "max_correct", f"< num_samples = {self.num_samples}", self.max_correct)
        if self.engine.kind == "same":
            refuse("engine", "kind", "torch or vllm", self.engine.kind)
