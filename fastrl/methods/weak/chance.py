"""The random reward, a control that shows what training does without a signal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastrl.rewards.batch import CompletionInput, TrainerState
from fastrl.runtime.seeding import seed_of


class RandomReward:
    """Rewards 0 or 1 with probability 1/2 each, independent of the completion.

        reward = last bit of seed_of(seed, "random", rollout)

    rollout is the entry of rollout_ids if the trainer passes them, otherwise (step, index in the batch).
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
