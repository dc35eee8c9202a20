"""Inputs of the builders of rewards; they load the engine of each frozen model once."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field

import torch

from fastrl.config import RlConfig
from fastrl.config.engines import frozen_engines
from fastrl.data.problems import Problem
from fastrl.engine.build import build_engine
from fastrl.engine.protocol import Engine
from fastrl.grading.pool import AnswerGrader
from fastrl.policy.model import Policy


@dataclass(slots=True)
class RewardInputs:
    """Everything that a reward can be built from."""

    config: RlConfig
    policy: Policy
    grader: AnswerGrader
    problems: list[Problem]
    device: torch.device
    resources: ExitStack
    """Closes the resources that rewards open."""
    engines: dict[str, Engine] = field(default_factory=dict)
    """Loaded engines, by their names in metrics."""

    def engine(self, name: str) -> Engine:
        """Load an engine by name; put it to sleep if its options have sleep."""
        entry = frozen_engines(self.config)[name]
        engine = build_engine(entry.model, entry.engine, self.device)
        if entry.engine.sleep:
            engine.sleep()
        self.engines[name] = engine
        return engine
