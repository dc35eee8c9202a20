"""Options of the groups stage: for each problem one good trace and several flawed ones."""

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
    """A frozen model that writes flawed traces, or judges traces."""

    model: PromptedConfig = field(default_factory=PromptedConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    temperature: float = 0.7
    """Sampling temperature; 0 is greedy."""
    top_p: float = 0.95
    """Nucleus sampling; 1: off."""
    max_new_tokens: int = 1024
    """Longest reply, in tokens."""
    retries: int = 2
    """Retries after a reply that can't be parsed; then the request is rejected."""

    def __post_init__(self) -> None:
        take_prompted("writer", self, "model")
        check_positive("writer", self, "max_new_tokens")
        check_at_least("writer", self, 0, "retries", "temperature")


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupsConfig:
    """Groups of traces of the same problem (TRACELIFT-GROUPS, arXiv 2605.03862)."""

    stage: Literal["groups"] = "groups"
    run: RunConfig = field(default_factory=RunConfig)
    task: Task = "math"
    data: DataConfig = field(default_factory=DataConfig)
    """Problems with a worked reference solution."""
    reference_column: str | None = None
    """Column of the worked solution or program. null: the first of reference_solution, rationale, solution,
    answer, program and canonical_solution."""
    reasoning_column: str | None = None
    """Column of a teacher's reasoning, for code. null: the first of reasoning, rationale and output."""
    negatives: Literal["calculator", "given", "written"] = "calculator"
    """Source of flawed traces. calculator: perturbed <<a+b=c>> rationales with exact labels. given: the
    file's column `candidates`. written: by the writer model, scored by the judge."""
    writer: WriterConfig = field(default_factory=WriterConfig)
    judge: WriterConfig = field(default_factory=lambda: WriterConfig(temperature=0.0, max_new_tokens=512))
    """Judge of written negatives, and of given ones without scores."""
    candidates: int = 8
    """Flawed traces proposed per problem, of different kinds as far as there are kinds. Given ones: all."""
    min_negatives: int = 4
    """Groups with fewer negatives left are dropped."""
    margin: float = 0.2
    """A negative's total score must be at least this much below the positive's."""
    min_words: int | None = None
    """Drop flawed traces with fewer words. null: 40 for code, 1 for math."""
    drop_code: bool = False
    """Drop flawed traces that contain code (def, class, return, import, code fences)."""
    executor: ExecutorConfig = field(default_factory=ExecutorConfig)
    """If executor.model.path is set, drop negatives with which it succeeds more often than with the positive.
    Its engine copies writer.engine unless it names a kind."""
    executor_repeats: int = 4
    """Executor runs with each trace for that check."""
    dev_share: float = 0.1
    """Fraction of problems held out, by the hash of (seed, problem)."""
    format: Literal["jsonl", "parquet"] = "jsonl"
    """Format of the files written."""

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
        """min_words, or the task's default."""
        own = 40 if self.task == "code" else 1
        return own if self.min_words is None else self.min_words
