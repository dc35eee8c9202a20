"""The parts of an RL run; fastrl.stages.build creates them."""

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
    """A reward function with its name in metrics and its weight."""

    name: str
    function: Callable[..., Any]
    weight: float


class Evaluator(Protocol):
    """An evaluation of the policy before, during and after training."""

    @property
    def every(self) -> int:
        """Steps between evaluations; 0: only before the first step and after the last."""

    def __call__(self, context: Context[RlConfig], parts: Parts, step: int) -> Metrics:
        """Return the metrics of the policy after `step` steps. A collective: all ranks call it."""


@dataclass(slots=True)
class Parts:
    """The models, engines, data and rewards of an RL run."""

    policy: Policy
    reference: Policy | None
    """Frozen model of the KL term; None without KL, or if the receiver is the same model."""
    engine: Engine
    """Engine that samples from the policy."""
    frozen_engines: dict[str, Engine]
    """Engines of the rewards' frozen models, by their names in metrics."""
    optimizer: torch.optim.Optimizer
    problems: list[Problem]
    order: ProblemOrder
    rewards: list[WeightedReward]
    grader: AnswerGrader
    evaluators: list[Evaluator]
    overlap: bool
    """True if the rewards' engines have their own devices, so that they can run while the policy samples."""
    bad_steps: BadSteps
    """Rule for skipping bad gradients."""
    resources: ExitStack = field(default_factory=ExitStack)
    """Closes the processes that grade answers and run programs."""
    synced: bool = False
    """True once the engine has received all of the policy's weights."""

    def sync_engine(self, version: int) -> None:
        """Copy the policy's weights to its engine: all at first, then only the trained ones if possible."""
        partial = self.synced and self.policy.adapted and self.engine.takes_partial_weights
        self.engine.load_weights(self.policy.named_weights(changed_only=partial), version, partial)
        self.synced = True

    def close(self) -> None:
        """End the processes that grade answers and run programs."""
        self.resources.close()

    @property
    def engines(self) -> dict[str, Engine]:
        """All engines, by their names in metrics."""
        return {"policy": self.engine, **self.frozen_engines}
