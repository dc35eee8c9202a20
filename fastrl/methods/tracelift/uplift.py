"""The uplift reward (TraceLift, arXiv 2605.03862): is a trace good, and does it help a frozen executor?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fastrl.config import UpliftConfig
from fastrl.methods.tracelift.executor import Answer, Executor, Request, num_right, success_rate
from fastrl.methods.tracelift.uplift_formulas import code_reward, math_reward, mean_uplift, sign_with_ties
from fastrl.methods.tracelift.verifiers import Verifier
from fastrl.rewards.batch import CompletionInput, LogExtra, LogMetric, TrainerState, completion_text, mean
from fastrl.rewards.traces import trace_of
from fastrl.runtime.seeding import seed_of
from fastrl.types import Task


class Score(Protocol):
    """A reward model's judgment of a trace."""

    @property
    def total(self) -> float: ...


class Scorer(Protocol):
    """Serves a reward model; fastrl.methods.tracelift.rubric.RubricScorer is one."""

    def score(
        self,
        task: Task,
        problems: Sequence[str],
        traces: Sequence[str],
        tests: Sequence[str | None] | None = None,
    ) -> Sequence[Score]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifted:
    """A trace and what it did."""

    trace: str
    answers: list[Answer]
    """With it; the first is the primary run."""
    alone: list[Answer]
    """Without it."""
    quality: float
    """The reward model's; 0 where none is asked."""
    leak: bool

    @property
    def primary(self) -> Answer:
        return self.answers[0]

    @property
    def repeats(self) -> list[Answer]:
        return self.answers[1:]

    @property
    def uplift(self) -> float:
        return mean_uplift(success_rate(self.repeats), success_rate(self.alone))

    @property
    def coefficient(self) -> float:
        passes, base = num_right(self.repeats), num_right(self.alone)
        return sign_with_ties(passes, len(self.repeats), base, len(self.alone))

    def reward(self, config: UpliftConfig) -> float:
        if self.leak and config.leak == "zero":
            return 0.0
        score = self.primary.checked.score
        if config.executor.task == "code":
            return code_reward(config.form, score, self.quality, self.coefficient)
        return math_reward(config.form, score, self.quality, self.uplift)


class UpliftReward:
    """What a trace is worth to a frozen executor, and to a reward model that judges reasoning.

        math:  R = e2e / 2 + r / 2            r = clip(RM(x, z), 0, 1) * clip(s_with - s_base, -1, 1)
        code:  R = clip(hybrid + r / 5, 0, 1)  r = clip(RM(x, z), 0, 1) * sign(s_with - s_base), ties by rate

    e2e and hybrid are of one primary run with the trace, s_with of `repeats` others, s_base of
    `baseline_repeats` runs without a trace; config.form says what takes the place of r. See uplift_formulas.

    All runs of a call are one batch of the executor's engine. Every draw with a trace is a function of seed,
    step and rollout (its entry in rollout_ids where the trainer numbers its rollouts, its row otherwise); a
    cached baseline's of seed and question alone, so that a resumed run finds what the first one had.

    Args:
        scorer: of the reward model; needed where config.form is product, quality or sum.
        seed: of the run.
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
        """Raises ValueError where the executor could not hold a question, such a trace and its answer."""
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
        """columns: a list each, one entry a completion: question is the problem alone, without what the
        planner was told; math needs solution, code its tests (see ProgramTests.from_columns)."""
        step, ids = trainer_state.global_step, range(len(prompts)) if rollout_ids is None else rollout_ids
        rows = rows_of(columns | {"question": question}, len(completions))
        references = [self.verifier.reference(row) for row in rows]
        traces = [trace_of(completion_text(each), self.config.trace_tag) for each in completions]
        asked = self._requests(question, traces, references, step, ids)
        alone = self._baselines(question, references, step, ids)
        cached = mean([float(self.executor.keeps(request)) for request in alone]) if alone else 0.0
        answers = self.executor.run([*asked, *alone])
        qualities = self._qualities(question, traces, references)
        lifted = [
            Lifted(
                trace=trace, answers=with_trace, alone=without, quality=quality,
                leak=self.verifier.leaks(trace, reference),
            )
            for trace, with_trace, without, quality, reference in zip(
                traces, answers[: len(asked)], answers[len(asked) :], qualities, references, strict=True
            )
        ]  # fmt: skip
        if log_extra is not None:
            for name, values in records(lifted).items():
                log_extra(name, values)
        if log_metric is not None and lifted:
            for name, value in (metrics(lifted, self.config, self.verifier) | {"cached": cached}).items():
                log_metric(f"uplift/{name}", value)
        return [each.reward(self.config) for each in lifted]

    def _requests(
        self, questions: Sequence[str], traces: Sequence[str], references: Sequence[Any], step: int,
        ids: Sequence[int],
    ) -> list[Request]:  # fmt: skip
        return [
            Request(
                question=question, trace=trace, reference=reference, num_samples=1 + self.config.repeats,
                seed=seed_of(self.seed, "uplift", step, rollout),
            )
            for question, trace, reference, rollout in zip(questions, traces, references, ids, strict=True)
        ]  # fmt: skip

    def _baselines(
        self, questions: Sequence[str], references: Sequence[Any], step: int, ids: Sequence[int]
    ) -> list[Request]:
        keep = self.config.baseline == "cached"
        return [
            Request(
                question=question, trace=None, reference=reference, keep=keep,
                num_samples=self.config.baseline_repeats,
                seed=seed_of(self.seed, "baseline", *([question] if keep else [step, rollout])),
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
    """A dict a completion; what a trainer passes beside its columns is no list of that length."""
    lists = {
        name: values
        for name, values in columns.items()
        if isinstance(values, Sequence) and not isinstance(values, str) and len(values) == size
    }
    return [{name: values[i] for name, values in lists.items()} for i in range(size)]


def records(lifted: Sequence[Lifted]) -> dict[str, list[Any]]:
    """What is logged of every completion."""
    return {
        "trace": [each.trace for each in lifted],
        "executor_answer": [each.primary.text for each in lifted],
        "executor_verdict": [each.primary.checked.label for each in lifted],
        "s_with": [success_rate(each.repeats) for each in lifted],
        "s_base": [success_rate(each.alone) for each in lifted],
        "quality": [each.quality for each in lifted],
        "leak": [each.leak for each in lifted],
        "executor_repeats": [[run_record(run) for run in each.repeats] for each in lifted],
        "executor_alone": [[run_record(run) for run in each.alone] for each in lifted],
    }


def run_record(run: Answer) -> dict[str, Any]:
    return {"text": run.text, "verdict": run.checked.label, "finish_reason": run.finish_reason}


def metrics(lifted: Sequence[Lifted], config: UpliftConfig, verifier: Verifier) -> dict[str, float]:
    """Means over traces; shares of what became of the runs with a trace are over runs."""
    runs = [answer for each in lifted for answer in each.answers]
    labels = Counter(answer.checked.label for answer in runs)
    found = {
        "e2e": mean([float(each.primary.checked.success) for each in lifted]),
        "with": mean([success_rate(each.repeats) for each in lifted]),
        "without": mean([success_rate(each.alone) for each in lifted]),
        "uplift": mean([each.uplift for each in lifted]),
        "leak": mean([float(each.leak) for each in lifted]),
        "empty_trace": mean([float(not each.trace) for each in lifted]),
        "unfinished": mean([float(answer.finish_reason == "length") for answer in runs]),
        **{label: labels[label] / len(runs) for label in verifier.labels},
    }
    if config.needs_quality:
        found["quality"] = mean([each.quality for each in lifted])
    if verifier.task == "code":
        found["coefficient"] = mean([each.coefficient for each in lifted])
        found["pass_rate"] = mean([each.primary.checked.pass_rate for each in lifted])
    return found
