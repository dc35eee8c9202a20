"""One groups stage: traces of the same problem, one good and several flawed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from fastrl.config.base import (
    DataConfig,
    PromptedConfig,
    RunConfig,
    check_at_least,
    check_no_template,
    check_positive,
    refuse,
    take_prompted,
)
from fastrl.config.engine import EngineConfig
from fastrl.config.executor import ExecutorConfig
from fastrl.types import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterConfig:
    """A model that writes flawed traces, or judges them, through any engine."""

    model: PromptedConfig = field(default_factory=PromptedConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    temperature: float = 0.7
    top_p: float = 0.95
    max_new_tokens: int = 1024
    retries: int = 2
    """An answer that can't be read is asked for again so often, then it is rejected."""

    def __post_init__(self) -> None:
        take_prompted("writer", self, "model")
        check_positive("writer", self, "max_new_tokens")
        check_at_least("writer", self, 0, "retries", "temperature")


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupsConfig:
    """Same-problem groups of traces (TRACELIFT-GROUPS)."""

    stage: Literal["groups"] = "groups"
    run: RunConfig = field(default_factory=RunConfig)
    task: Task = "math"
    data: DataConfig = field(default_factory=DataConfig)
    """Problems with a worked reference solution."""
    reference_column: str | None = None
    """The worked solution, or the program. null: reference_solution, rationale, solution, answer, program or
    canonical_solution, whichever comes first."""
    reasoning_column: str | None = None
    """A teacher's reasoning, for code. null: reasoning, rationale or output, whichever comes first."""
    negatives: Literal["calculator", "given", "written"] = "calculator"
    """calculator: perturbations of <<a+b=c>> rationales, exactly labelled. given: the column `candidates` of
    the file. written: by the writer model, judged by the judge."""
    writer: WriterConfig = field(default_factory=WriterConfig)
    judge: WriterConfig = field(default_factory=lambda: WriterConfig(temperature=0.0, max_new_tokens=512))
    """Needed where negatives are written; judges given ones that carry no scores."""
    candidates: int = 8
    """Flawed traces proposed for a problem, each of another kind while kinds last; of given ones, all."""
    min_negatives: int = 4
    """A group that keeps fewer is dropped."""
    margin: float = 0.2
    """A negative's total is at least this much below the positive's."""
    min_words: int | None = None
    """A flawed trace of fewer words is dropped. null: 40 for code, 1 for math."""
    drop_code: bool = False
    """Drop flawed traces that hold pieces of a program (def, class, return, import, code fences)."""
    executor: ExecutorConfig = field(default_factory=ExecutorConfig)
    """Where executor.model.path is set: a negative with which it succeeds more often than with the positive
    is dropped. Its engine is as writer.engine says, unless a kind is named."""
    executor_repeats: int = 4
    """Runs of the executor with each trace, for that check."""
    dev_share: float = 0.1
    """Held-out problems, by the hash of (seed, problem)."""
    format: Literal["jsonl", "parquet"] = "jsonl"

    def __post_init__(self) -> None:
        check_no_template("groups", self.data)
        check_positive("groups", self, "candidates", "min_negatives", "executor_repeats")
        check_at_least("groups", self, 0, "margin")
        if self.min_words is not None:
            check_positive("groups", self, "min_words")
        if not 0 <= self.dev_share < 1:
            refuse("groups", "dev_share", "a number in [0, 1)", self.dev_share)
        if self.candidates < self.min_negatives:
            refuse("groups", "candidates", f">= min_negatives = {self.min_negatives}", self.candidates)

    @property
    def least_words(self) -> int:
        """min_words, or the task's own."""
        own = 40 if self.task == "code" else 1
        return own if self.min_words is None else self.min_words
