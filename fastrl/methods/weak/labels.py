"""The label reward: grades answers against labels that may be wrong (arXiv 2604.18574, appendix D)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from fastrl.config import LabelConfig, refuse
from fastrl.data import Problem, gold_text
from fastrl.grading import AnswerGrader, Verdict
from fastrl.methods.weak.noise import (
    NoisyLabel,
    check_differ,
    corrupted_places,
    label_for_sample,
    noisy_labels,
    with_false_negatives,
)
from fastrl.rewards.batch import CompletionInput, LogExtra, LogMetric, TrainerState, completion_text, mean


class LabelReward:
    """Rewards 1 if the answer equals its possibly corrupted label, else 0.

        fixed:            label = the item's wrong label, for floor(share * N) items; gold for the others
        per_sample:       label = the item's wrong label if u(seed, item, step, rollout) < share; else gold
        false_negatives:  label = gold; reward 0 for all rollouts of floor(share * N) items

    The seed and the item's row in the file choose corrupted items and rollouts; a larger share corrupts a
    superset (fastrl.methods.weak.noise). problem_ids holds each rollout's item.

    Logs each rollout's label, whether it is corrupted, and labels/corrupted, the fraction of rollouts.

    Args:
        problems: all training problems.
        seed: seed of the run.
    Raises:
        ValueError: a wrong label is missing, or may equal the gold answer.
    """

    def __init__(
        self, grader: AnswerGrader, config: LabelConfig, problems: Sequence[Problem], seed: int
    ) -> None:
        self.__name__ = "label"
        self.grader, self.config, self.seed = grader, config, seed
        self.labels = item_labels(problems, config, seed, grader)

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[CompletionInput],
        completion_ids: Sequence[Sequence[int]] | None = None,
        *,
        problem_ids: Sequence[int],
        trainer_state: TrainerState,
        rollout_ids: Sequence[int] | None = None,
        log_extra: LogExtra | None = None,
        log_metric: LogMetric | None = None,
        **columns: Any,
    ) -> list[float | None]:
        ids = range(len(prompts)) if rollout_ids is None else rollout_ids
        labels = [
            self._drawn(item, trainer_state.global_step, rollout)
            for item, rollout in zip(problem_ids, ids, strict=True)
        ]
        pairs = [
            (completion_text(text), label.label) for text, label in zip(completions, labels, strict=True)
        ]
        rewards = [float(verdict is Verdict.CORRECT) for verdict in self.grader.grade(pairs)]
        if self.config.kind == "false_negatives":
            corrupted = {item for item, label in self.labels.items() if label.corrupted}
            rewards = with_false_negatives(rewards, problem_ids, corrupted)
        if log_extra is not None:
            log_extra("label", [label.label for label in labels])
            log_extra("corrupted", [label.corrupted for label in labels])
        if log_metric is not None and labels:
            log_metric("labels/corrupted", mean([float(label.corrupted) for label in labels]))
        return [*rewards]

    def _drawn(self, item: int, step: int, rollout: int) -> NoisyLabel:
        stored = self.labels[item]
        if self.config.kind != "per_sample":
            return stored
        label = label_for_sample(stored.gold, stored.label, self.config.share, self.seed, item, step, rollout)
        return NoisyLabel(gold=stored.gold, label=label, corrupted=label != stored.gold)


def item_labels(
    problems: Sequence[Problem], config: LabelConfig, seed: int, grader: AnswerGrader
) -> dict[int, NoisyLabel]:
    """Return each item's label by row number.

    Kind per_sample gives the label that a rollout may flip to. Kind false_negatives gives the gold label,
    marked corrupted if all answers to the item are rewarded 0.

    Raises: as LabelReward.
    """
    items, gold = [problem.index for problem in problems], [problem.solution for problem in problems]
    if config.kind == "false_negatives":
        hit = corrupted_places(items, config.share, seed)
        labels = [NoisyLabel(gold=g, label=g, corrupted=place in hit) for place, g in enumerate(gold)]
        return dict(zip(items, labels, strict=True))
    wrong = wrong_labels(problems, config)
    differ = partial(surely_differ, grader)
    if config.kind == "fixed":
        return dict(zip(items, noisy_labels(gold, wrong, config.share, seed, items, differ), strict=True))
    flips = [
        NoisyLabel(gold=right, label=right if other is None else other, corrupted=other is not None)
        for right, other in zip(gold, wrong, strict=True)
    ]
    if config.share and None in wrong:
        expected = f"a wrong label in column {config.column!r} of every row"
        refuse("labels", "column", expected, f"none in row {items[wrong.index(None)] + 1}")
    able = [(item, flip) for item, flip in zip(items, flips, strict=True) if flip.corrupted]
    check_differ([item for item, _ in able], [flip for _, flip in able], differ)
    return dict(zip(items, flips, strict=True))


def wrong_labels(problems: Sequence[Problem], config: LabelConfig) -> list[str | None]:
    """Read the wrong labels from their column; all None if the kind needs none."""
    if not config.needs_wrong_labels:
        return [None] * len(problems)
    column = config.column
    if not any(column in problem.columns for problem in problems):
        have = ", ".join(dict.fromkeys(name for problem in problems for name in problem.columns))
        refuse("labels", "column", f"one of the columns {have}", column)
    found: list[str | None] = []
    for problem in problems:
        value = problem.columns.get(column)
        try:
            found.append(None if value is None else gold_text(value))
        except ValueError as error:
            raise ValueError(f"[labels] column: row {problem.index + 1}: {error}") from error
    return found


def surely_differ(grader: AnswerGrader, pairs: Sequence[tuple[str, str]]) -> list[bool]:
    """Return True for each pair of answers that the grader calls different in both directions."""
    both = [(grader.stating(a), b) for a, b in pairs] + [(grader.stating(b), a) for a, b in pairs]
    wrong = [verdict is Verdict.WRONG for verdict in grader.grade(both)]
    return [there and back for there, back in zip(wrong[: len(pairs)], wrong[len(pairs) :], strict=True)]
