"""The answer reward: 1 if the answer equals the gold answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastrl.data import gold_text
from fastrl.grading import AnswerGrader, Verdict
from fastrl.grading.verdict import COUNTED_APART
from fastrl.rewards.batch import CompletionInput, LogExtra, LogMetric, completion_text


class AnswerReward:
    """Reward 1 for a correct answer, otherwise 0.

    Logs every completion's verdict, and the fraction of each verdict other than correct and wrong:
    verify/no_answer, verify/unreadable, verify/unevaluated, verify/timeout, verify/error.
    """

    def __init__(self, grader: AnswerGrader) -> None:
        self.__name__ = "answer"
        self.grader = grader

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[CompletionInput],
        completion_ids: Sequence[Sequence[int]] | None = None,
        *,
        solution: Sequence[Any],
        log_extra: LogExtra | None = None,
        log_metric: LogMetric | None = None,
        **columns: Any,
    ) -> list[float | None]:
        verdicts = self.grader.grade(
            [
                (completion_text(text), gold_text(gold))
                for text, gold in zip(completions, solution, strict=True)
            ]
        )
        if log_extra is not None:
            log_extra("verdict", [verdict.value for verdict in verdicts])
        if log_metric is not None:
            for kind in COUNTED_APART:
                log_metric(f"verify/{kind.value}", verdicts.count(kind) / max(1, len(verdicts)))
        return [float(verdict is Verdict.CORRECT) for verdict in verdicts]
