"""What an RL run works with. No engine and no reward is chosen here: fastrl.stages.build does that."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from fastrl.config import RlConfig
from fastrl.data.order import ProblemOrder
from fastrl.data.problems import Problem
from fastrl.engine.protocol import Engine
from fastrl.grading.pool import AnswerGrader
from fastrl.policy.bad_steps import BadSteps
from fastrl.policy.model import Policy
from fastrl.runtime.context import Context
from fastrl.types import Metrics


@dataclass(frozen=True, slots=True)
class WeightedReward:
    """A reward function under the name that metrics carry."""

    name: str
    function: Callable[..., Any]
    weight: float


class Evaluator(Protocol):
    """Measures the current policy before, during and after training."""

    @property
    def every(self) -> int:
        """Measure every so many steps; 0: before the first and after the last only."""

    def __call__(self, context: Context[RlConfig], parts: Parts, step: int) -> Metrics:
        """Return the metrics of the policy after `step` steps. All ranks call it together."""


@dataclass(slots=True)
class Parts:
    """Everything that an RL run works with."""

    policy: Policy
    reference: Policy | None
    """The frozen start of training; None if there is no KL term, or if the receiver is that model."""
    engine: Engine
    """Samples from the policy."""
    frozen_engines: dict[str, Engine]
    """Engines that rewards ask, by the names that metrics carry."""
    optimizer: torch.optim.AdamW
    problems: list[Problem]
    order: ProblemOrder
    rewards: list[WeightedReward]
    grader: AnswerGrader
    evaluators: list[Evaluator]
    overlap: bool
    """Engines of rewards have devices of their own, so they may work while the policy samples."""
    bad_steps: BadSteps
    """Decides which gradients are applied."""
    resources: ExitStack = field(default_factory=ExitStack)
    """Closes the processes that grade answers and run programs."""
    synced: bool = False
    """The engine has had all of the policy's weights."""

    def sync_engine(self, version: int) -> None:
        """Copy the policy's weights to its engine: all of them the first time; then only those that training
        changes, if these are fewer and the engine keeps the others."""
        partial = self.synced and self.policy.adapted and self.engine.takes_partial_weights
        self.engine.load_weights(self.policy.named_weights(changed_only=partial), version, partial)
        self.synced = True

    def close(self) -> None:
        """End the processes that grade answers and run programs."""
        self.resources.close()

    @property
    def engines(self) -> dict[str, Engine]:
        """All engines, by the names that metrics carry."""
        return {"policy": self.engine, **self.frozen_engines}
