"""What the builders of rewards are given; engines of frozen models are loaded here, once each."""

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
    """What a reward can be built from."""

    config: RlConfig
    policy: Policy
    grader: AnswerGrader
    problems: list[Problem]
    device: torch.device
    resources: ExitStack
    """Closes what a reward opens."""
    engines: dict[str, Engine] = field(default_factory=dict)
    """Engines that were loaded, by the names that metrics carry."""

    def engine(self, name: str) -> Engine:
        """Load the engine of this name, asleep if its options say so."""
        entry = frozen_engines(self.config)[name]
        engine = build_engine(entry.model, entry.engine, self.device)
        if entry.engine.sleep:
            engine.sleep()
        self.engines[name] = engine
        return engine
