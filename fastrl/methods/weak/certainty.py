"""Rewards from the policy's own predictions: self-certainty (distance from uniform) and negative entropy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch

from fastrl.data import as_messages, render_prompt
from fastrl.policy.model import Policy
from fastrl.rewards.batch import CompletionInput, TrainerState, group_numbers
from fastrl.types import TrainSequence

Kind = Literal["self_certainty", "entropy"]
Means = dict[Kind, list[float | None]]


class CertaintyScorer:
    """Scores a batch once per step for both rewards; sequences are packed, shared prompts computed once and
    logits not kept.

    Args:
        tokens_per_microbatch: largest number of tokens per forward pass.
    """

    def __init__(self, policy: Policy, tokens_per_microbatch: int = 16384) -> None:
        if tokens_per_microbatch < 1:
            raise ValueError(f"[certainty] tokens_per_microbatch: expected >= 1, got {tokens_per_microbatch}")
        self.policy, self.tokens_per_microbatch = policy, tokens_per_microbatch
        self._last: tuple[int, list[TrainSequence], Means] | None = None

    def score(
        self,
        prompts: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        step: int,
        group_ids: Sequence[int] | None = None,
    ) -> Means:
        """Return means over each completion's tokens, in nats, float64; None for an empty completion.

        Args:
            step: number of the training step; a second call with the same step and batch is cached.
        """
        sequences = [self._sequence(p, ids) for p, ids in zip(prompts, completion_ids, strict=True)]
        if self._last is None or self._last[:2] != (step, sequences):
            means = self._scored(sequences, group_numbers(prompts, group_ids))
            self._last = (step, sequences, means)
        return self._last[2]

    def _sequence(self, prompt: Any, completion: Sequence[int]) -> TrainSequence:
        before = render_prompt(self.policy.tokenizer, as_messages(prompt))
        return TrainSequence([*before, *completion], [False] * len(before) + [True] * len(completion))

    def _scored(self, sequences: Sequence[TrainSequence], groups: Sequence[int]) -> Means:
        means: Means = {"self_certainty": [None] * len(sequences), "entropy": [None] * len(sequences)}
        rows = [row for row, sequence in enumerate(sequences) if sequence.num_loss_tokens]
        batches = self.policy.microbatches(
            [sequences[row] for row in rows], self.tokens_per_microbatch, [groups[row] for row in rows]
        )
        for places in batches:
            chosen = [rows[place] for place in places]
            out = self.policy.score(self.policy.pack([sequences[row] for row in chosen]))
            values = torch.stack([out.self_certainty, out.entropy]).double().cpu()
            pieces = torch.split(values, [sequences[row].num_loss_tokens for row in chosen], dim=1)
            for row, piece in zip(chosen, pieces, strict=True):
                means["self_certainty"][row], means["entropy"][row] = piece.mean(1).tolist()
        return means


class CertaintyReward:
    """Rewards certain predictions, by the policy's own distribution at temperature 1.

        self_certainty:  reward = 1 / |o| * sum over i of KL(uniform || p(. | q, o_<i))   (Intuitor)
        entropy:         reward = - 1 / |o| * sum over i of H(p(. | q, o_<i))

    Uses the policy's weights at the time of the call: in fastrl, those that sampled. Returns None for an
    empty completion.

    Source: arXiv 2505.19590, arXiv 2604.18574.
    """

    def __init__(self, kind: Kind, scorer: CertaintyScorer) -> None:
        self.__name__ = kind
        self.kind, self.scorer = kind, scorer

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[CompletionInput],
        completion_ids: Sequence[Sequence[int]],
        *,
        trainer_state: TrainerState,
        group_ids: Sequence[int] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        means = self.scorer.score(prompts, completion_ids, trainer_state.global_step, group_ids)[self.kind]
        if self.kind == "self_certainty":
            return list(means)
        return [None if value is None else -value for value in means]
