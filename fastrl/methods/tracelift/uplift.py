"""The uplift reward (TraceLift, arXiv 2605.03862): a trace's quality times its help to a frozen executor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fastrl.config import UpliftConfig
from fastrl.methods.tracelift.executor import Answer, Executor, ExecutorRequest, num_right, success_rate
from fastrl.methods.tracelift.uplift_formulas import code_reward, math_reward, mean_uplift, sign_with_ties
from fastrl.methods.tracelift.verifiers import Verifier
from fastrl.rewards.batch import CompletionInput, LogExtra, LogMetric, TrainerState, completion_text, mean
from fastrl.rewards.traces import trace_of
from fastrl.runtime.seeding import seed_of
from fastrl.types import Task


class Score(Protocol):
    """A reward model's score of a trace."""

    @property
    def total(self) -> float: ...


class Scorer(Protocol):
    """Interface of a reward model, such as fastrl.methods.tracelift.rubric.RubricScorer."""

    def score(
        self,
        task: Task,
        problems: Sequence[str],
        traces: Sequence[str],
        tests: Sequence[str | None] | None = None,
    ) -> Sequence[Score]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class UpliftRecord:
    """A trace with the executor's answers and the reward model's score."""

    trace: str
    answers: list[Answer]
    """Answers with the trace; the first is the primary run."""
    baseline: list[Answer]
    """Answers without a trace."""
    quality: float
    """The reward model's score; 0 if the form uses none."""
    leak: bool
    """The trace states the answer or the program."""

    @property
    def primary(self) -> Answer:
        return self.answers[0]

    @property
    def repeats(self) -> list[Answer]:
        return self.answers[1:]

    @property
    def uplift(self) -> float:
        return mean_uplift(success_rate(self.repeats), success_rate(self.baseline))

    @property
    def coefficient(self) -> float:
        passes, base = num_right(self.repeats), num_right(self.baseline)
        return sign_with_ties(passes, len(self.repeats), base, len(self.baseline))

    def reward(self, config: UpliftConfig) -> float:
        if self.leak and config.leak == "zero":
            return 0.0
        score = self.primary.checked.score
        if config.executor.task == "code":
            return code_reward(config.form, score, self.quality, self.coefficient)
        return math_reward(config.form, score, self.quality, self.uplift)


class UpliftReward:
    """Rewards a trace for the executor's success with it, weighted by a reward model's score of its quality.

        math:  R = e2e / 2 + r / 2            r = clip(RM(x, z), 0, 1) * clip(s_with - s_base, -1, 1)
        code:  R = clip(hybrid + r / 5, 0, 1)  r = clip(RM(x, z), 0, 1) * sign(s_with - s_base), ties by rate

    e2e and hybrid come from one primary run with the trace, s_with from `repeats` further runs, and s_base
    from `baseline_repeats` runs without a trace. config.form selects other definitions of r; see
    uplift_formulas.

    All runs of a call are one batch on the executor's engine. Draws with a trace depend on seed, step and
    rollout: its entry in rollout_ids if the trainer passes them, else its index in the batch. Draws of a
    cached baseline depend only on seed and question, so a resumed run repeats them.

    Args:
        scorer: the reward model; needed if config.form is product, quality or sum.
        seed: seed of the run.
    """

    def __init__(self, executor: Executor, config: UpliftConfig, scorer: Scorer | None, seed: int) -> None:
        if config.needs_quality and scorer is None:
            raise ValueError(f"[uplift] reward_model: expected one, since form is {config.form}, got none")
        self.__name__ = "uplift"
        self.executor, self.config, self.scorer, self.seed = executor, config, scorer, seed

    @property
    def verifier(self) -> Verifier:
        return self.executor.verifier

    def check_capacity(self, questions: Sequence[str], trace_tokens: int) -> None:
        """Raise ValueError if the executor cannot hold a question, a trace of trace_tokens and its answer."""
        self.executor.check_capacity(questions, trace_tokens)

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[CompletionInput],
        completion_ids: Sequence[Sequence[int]] | None = None,
        *,
        question: Sequence[str],
        trainer_state: TrainerState,
        log_extra: LogExtra | None = None,
        log_metric: LogMetric | None = None,
        rollout_ids: Sequence[int] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Return one reward per completion.

        Args:
            question: the problems without the planner's instructions.
            columns: lists with one entry per completion. Math needs solution, code its tests (see
                ProgramTests.from_columns).
        """
        step, ids = trainer_state.global_step, range(len(prompts)) if rollout_ids is None else rollout_ids
        rows = rows_of(columns | {"question": question}, len(completions))
        references = [self.verifier.reference(row) for row in rows]
        traces = [trace_of(completion_text(completion), self.config.trace_tag) for completion in completions]
        with_traces = self._requests(question, traces, references, step, ids)
        baselines = self._baselines(question, references, step, ids)
        cached = (
            mean([float(self.executor.is_cached(request)) for request in baselines]) if baselines else 0.0
        )
        answers = self.executor.run([*with_traces, *baselines])
        qualities = self._qualities(question, traces, references)
        records = [
            UpliftRecord(
                trace=trace, answers=with_trace, baseline=without, quality=quality,
                leak=self.verifier.leaks(trace, reference),
            )
            for trace, with_trace, without, quality, reference in zip(
                traces, answers[: len(traces)], answers[len(traces) :], qualities, references, strict=True
            )
        ]  # fmt: skip
        if log_extra is not None:
            for name, values in logged_columns(records).items():
                log_extra(name, values)
        if log_metric is not None and records:
            for name, value in (metrics(records, self.config, self.verifier) | {"cached": cached}).items():
                log_metric(f"uplift/{name}", value)
        return [record.reward(self.config) for record in records]

    def _requests(
        self, questions: Sequence[str], traces: Sequence[str], references: Sequence[Any], step: int,
        ids: Sequence[int],
    ) -> list[ExecutorRequest]:  # fmt: skip
        return [
            ExecutorRequest(
                question=question, trace=trace, reference=reference, num_samples=1 + self.config.repeats,
                seed=seed_of(self.seed, "uplift", step, rollout),
            )
            for question, trace, reference, rollout in zip(questions, traces, references, ids, strict=True)
        ]  # fmt: skip

    def _baselines(
        self, questions: Sequence[str], references: Sequence[Any], step: int, ids: Sequence[int]
    ) -> list[ExecutorRequest]:
        cache = self.config.baseline == "cached"
        return [
            ExecutorRequest(
                question=question, trace=None, reference=reference, cache=cache,
                num_samples=self.config.baseline_repeats,
                seed=seed_of(self.seed, "baseline", *([question] if cache else [step, rollout])),
            )
            for question, reference, rollout in zip(questions, references, ids, strict=True)
        ]  # fmt: skip

    def _qualities(
        self, questions: Sequence[str], traces: Sequence[str], references: Sequence[Any]
    ) -> list[float]:
        if self.scorer is None or not self.config.needs_quality:
            return [0.0] * len(traces)
        tests = [self.verifier.tests_text(reference) for reference in references]
        scores = self.scorer.score(
            self.verifier.task, questions, traces, tests if self.verifier.task == "code" else None
        )
        return [score.total for score in scores]


def rows_of(columns: dict[str, Any], size: int) -> list[dict[str, Any]]:
    """Return one dict per completion from the columns; other arguments have no list of that length."""
    lists = {
        name: values
        for name, values in columns.items()
        if isinstance(values, Sequence) and not isinstance(values, str) and len(values) == size
    }
    return [{name: values[i] for name, values in lists.items()} for i in range(size)]


def logged_columns(records: Sequence[UpliftRecord]) -> dict[str, list[Any]]:
    """Return the columns that are logged with the completions."""
    return {
        "trace": [record.trace for record in records],
        "executor_answer": [record.primary.text for record in records],
        "executor_verdict": [record.primary.checked.label for record in records],
        "s_with": [success_rate(record.repeats) for record in records],
        "s_base": [success_rate(record.baseline) for record in records],
        "quality": [record.quality for record in records],
        "leak": [record.leak for record in records],
        "executor_repeats": [[run_record(run) for run in record.repeats] for record in records],
        "executor_alone": [[run_record(run) for run in record.baseline] for record in records],
    }


def run_record(run: Answer) -> dict[str, Any]:
    return {"text": run.text, "verdict": run.checked.label, "finish_reason": run.finish_reason}


def metrics(records: Sequence[UpliftRecord], config: UpliftConfig, verifier: Verifier) -> dict[str, float]:
    """Average over traces; verdicts and `unfinished` are fractions of the runs with a trace."""
    runs = [answer for record in records for answer in record.answers]
    labels = Counter(answer.checked.label for answer in runs)
    found = {
        "e2e": mean([float(record.primary.checked.success) for record in records]),
        "with": mean([success_rate(record.repeats) for record in records]),
        "without": mean([success_rate(record.baseline) for record in records]),
        "uplift": mean([record.uplift for record in records]),
        "leak": mean([float(record.leak) for record in records]),
        "empty_trace": mean([float(not record.trace) for record in records]),
        "unfinished": mean([float(answer.finish_reason == "length") for answer in runs]),
        **{label: labels[label] / len(runs) for label in verifier.labels},
    }
    if config.needs_quality:
        found["quality"] = mean([record.quality for record in records])
    if verifier.task == "code":
        found["coefficient"] = mean([record.coefficient for record in records])
        found["pass_rate"] = mean([record.primary.checked.pass_rate for record in records])
    return found
