"""The majority reward: a group's most frequent answer serves as the label (TTRL)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastrl.data import gold_text
from fastrl.grading import AnswerGrader, Verdict
from fastrl.grading.votes import count_texts
from fastrl.rewards.batch import CompletionInput, LogExtra, LogMetric, completion_text, group_numbers, mean


@dataclass(frozen=True, slots=True)
class Vote:
    """A group's majority label."""

    label: str | None
    """None: no completion states an answer."""
    agreement: float
    """The label's fraction of the votes; NaN without a label."""
    text_agreement: float = float("nan")
    """Fraction of votes for the most frequent answer text, without merging equal answers."""


def vote(answers: Sequence[str | None], grader: AnswerGrader) -> Vote:
    """Elect the most frequent answer, the first one on a tie.

    Args:
        answers: results of AnswerGrader.stated; None casts no vote.
    """
    votes = grader.votes(answers)
    if not votes:
        return Vote(None, float("nan"))
    label, cast = max(votes, key=votes.__getitem__), sum(votes.values())
    return Vote(label, votes[label] / cast, max(count_texts(answers).values()) / cast)


class MajorityReward:
    """Rewards 1 if the answer equals the group's most frequent answer, else 0.

        label = most frequent answer of the group's completions and its voters;  reward = 1[answer == label]

    Answers that the grader calls equal share their votes. A completion without an answer casts no vote; a
    group without votes is rewarded 0. On a tie the first answer wins, completions before voters. group_ids
    identify groups, else consecutive equal prompts do. Voters are extra, unrewarded completions of the
    prompt: for each completion, its group's list of texts.

    Logs each completion's label, and means over groups: majority/agreement (the label's fraction of the
    votes), majority/text_agreement (the same if votes are compared as text), majority/no_label, and with gold
    answers majority/label_right (a missing label counts as wrong).

    Source: arXiv 2504.16084, arXiv 2604.18574 (voting over 2n, training on n).
    """

    def __init__(self, grader: AnswerGrader) -> None:
        self.__name__ = "majority"
        self.grader = grader

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[CompletionInput],
        completion_ids: Sequence[Sequence[int]] | None = None,
        *,
        group_ids: Sequence[int] | None = None,
        voters: Sequence[Sequence[str]] | None = None,
        solution: Sequence[Any] | None = None,
        log_extra: LogExtra | None = None,
        log_metric: LogMetric | None = None,
        **columns: Any,
    ) -> list[float | None]:
        groups = group_numbers(prompts, group_ids)
        texts = [completion_text(completion) for completion in completions]
        first = [groups.index(group) for group in range(max(groups, default=-1) + 1)]
        votes = []
        for group, row in enumerate(first):
            voting = [text for text, own in zip(texts, groups, strict=True) if own == group]
            voting += [] if voters is None else voters[row]
            votes.append(vote([self.grader.stated(text) for text in voting], self.grader))
        labels = [votes[group].label for group in groups]
        if log_extra is not None:
            log_extra("pseudo_label", labels)
        if log_metric is not None and votes:
            log_metric("majority/agreement", agreement(votes))
            known = [elected.text_agreement for elected in votes if elected.label is not None]
            log_metric("majority/text_agreement", mean(known) if known else float("nan"))
            log_metric("majority/no_label", mean([float(elected.label is None) for elected in votes]))
            if solution is not None:
                log_metric("majority/label_right", self._share_right(votes, [solution[row] for row in first]))
        return [*self._graded(texts, labels)]

    def _graded(self, texts: Sequence[str], labels: Sequence[str | None]) -> list[float]:
        """Return 1 for each text whose answer equals the label; 0 without a label."""
        pairs = [(text, label) for text, label in zip(texts, labels, strict=True) if label is not None]
        verdicts = iter(self.grader.grade(pairs))
        return [float(label is not None and next(verdicts) is Verdict.CORRECT) for label in labels]

    def _share_right(self, votes: Sequence[Vote], gold: Sequence[Any]) -> float:
        """Return the fraction of groups whose label is correct; a missing label is not."""
        answers = [
            None if elected.label is None else gold_text(right)
            for elected, right in zip(votes, gold, strict=True)
        ]
        return mean(self._graded([self.grader.stating(elected.label or "") for elected in votes], answers))


def agreement(votes: Sequence[Vote]) -> float:
    """Return the mean agreement of the groups with a label; NaN if none has one."""
    known = [elected.agreement for elected in votes if elected.label is not None]
    return mean(known) if known else float("nan")
