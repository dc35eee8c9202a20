"""Scores traces with the reasoning reward model, and the reward `rubric` made of the scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastrl.grading.programs.cases import ProgramTests
from fastrl.methods.tracelift.rubric_input import encode_traces
from fastrl.methods.tracelift.rubric_model import RubricModel
from fastrl.rewards.batch import CompletionInput, LogExtra, LogMetric, completion_text, mean
from fastrl.rewards.traces import trace_of
from fastrl.types import Task


@dataclass(frozen=True, slots=True)
class RubricScore:
    """A reward model's scores of a trace."""

    total: float
    """In [0, 1]: half the mean of the dimensions, half the total head."""
    dimensions: dict[str, float]
    """Expected level of each dimension, 0 to 4."""
    truncated: bool
    """The input was truncated to the model's max_tokens."""


class RubricScorer:
    """Scores batches of traces with a frozen reward model; shared prefixes are computed once.

    Args:
        tokens_per_microbatch: largest number of tokens per forward pass.
    """

    def __init__(self, model: RubricModel, tokens_per_microbatch: int = 16384) -> None:
        if tokens_per_microbatch < 1:
            raise ValueError(f"[rubric] tokens_per_microbatch: expected >= 1, got {tokens_per_microbatch}")
        self.model, self.tokens_per_microbatch = model, tokens_per_microbatch

    def score(
        self,
        task: Task,
        problems: Sequence[str],
        traces: Sequence[str],
        tests: Sequence[str | None] | None = None,
    ) -> list[RubricScore]:
        """Score each (problem, trace).

        The order of the batch changes no bit of a score, and equal rows have equal scores. The batch's other
        rows may change it by about 1e-6 in float32: matrices of another size round differently.

        Raises:
            ValueError: the model was trained on another task, or the lists' lengths differ.
        """
        rubric = self.model.rubric
        if task != rubric.task:
            raise ValueError(
                f"[rubric] task: expected {rubric.task}, what the model was trained on, got {task}"
            )
        inputs = encode_traces(self.model.tokenizer, rubric, problems, traces, tests)
        judged = self.model.judge([read.token_ids for read in inputs], self.tokens_per_microbatch)
        return [
            RubricScore(score, dict(zip(rubric.dimensions, levels, strict=True)), read.num_cut > 0)
            for score, levels, read in zip(
                judged.scores.tolist(), judged.dimensions.tolist(), inputs, strict=True
            )
        ]


class RubricReward:
    """Rewards a completion with the reward model's score of its trace, in [0, 1].

    Needs the column `question` (the problem without instructions); `tests` (text, the tests themselves or
    null) is optional. Logs rubric/mean, rubric/<dimension> (0 to 4), rubric/truncated (a fraction), and each
    completion's dimensions.

    Args:
        tag: the trace is the text between <tag> and </tag>; without the tag, the whole completion.
    """

    def __init__(self, scorer: RubricScorer, task: Task, tag: str) -> None:
        self.__name__ = "rubric"
        self.scorer, self.task, self.tag = scorer, task, tag

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[CompletionInput],
        completion_ids: Sequence[Sequence[int]] | None = None,
        *,
        question: Sequence[str],
        tests: Sequence[Any] | None = None,
        log_extra: LogExtra | None = None,
        log_metric: LogMetric | None = None,
        **columns: Any,
    ) -> list[float | None]:
        check_texts("question", question)
        texts = None if tests is None else [tests_text(test) for test in tests]
        traces = [trace_of(completion_text(completion), self.tag) for completion in completions]
        scores = self.scorer.score(self.task, question, traces, texts)
        if log_extra is not None:
            log_extra("rubric", [score.dimensions for score in scores])
        if log_metric is not None and scores:
            log_metric("rubric/mean", mean([score.total for score in scores]))
            log_metric("rubric/truncated", mean([float(score.truncated) for score in scores]))
            for name in scores[0].dimensions:
                log_metric(f"rubric/{name}", mean([score.dimensions[name] for score in scores]))
        return [score.total for score in scores]


def tests_text(tests: Any) -> str | None:
    """Return a problem's tests as text for the reward model."""
    if tests is None or isinstance(tests, str):
        return tests
    return ProgramTests.from_columns({"tests": tests}).as_text()


def check_texts(column: str, values: Sequence[Any]) -> None:
    for value in values:
        if not isinstance(value, str):
            raise ValueError(f"[rubric] {column}: expected text, got {value!r}")
