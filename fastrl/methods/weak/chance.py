"""A reward that knows nothing: what training does without any signal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastrl.rewards.batch import CompletionInput, TrainerState
from fastrl.runtime.seeding import seed_of


class RandomReward:
    """0 or 1 with probability 1/2, whatever the completion says.

        reward = last bit of seed_of(seed, "random", rollout)

    A rollout is its entry in rollout_ids where the trainer numbers them, otherwise its step and row.
    """

    def __init__(self, seed: int) -> None:
        self.__name__ = "random"
        self.seed = seed

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[CompletionInput],
        completion_ids: Sequence[Sequence[int]] | None = None,
        *,
        trainer_state: TrainerState,
        rollout_ids: Sequence[int] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        rows = [(trainer_state.global_step, row) for row in range(len(completions))]
        places = rows if rollout_ids is None else [(rollout,) for rollout in rollout_ids]
        return [float(seed_of(self.seed, "random", *place) & 1) for place in places]
