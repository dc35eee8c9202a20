"""RLVR and RLTR in the tiny world: one seed's world, and the same generator trained by each reward. What was
stopped goes on."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from fastrl.config import EvalConfig, PromptedConfig, RewardConfig, RlConfig
from fastrl.runtime.run import read_metrics
from fastrl.tiny.demo import DemoOptions, demo_config, rl_recipe
from fastrl.tiny.world.assess import assess
from fastrl.tiny.world.config import WorldConfig
from fastrl.tiny.world.make import World, build_world
from fastrl.train import run_stage
from fastrl.training.progress import write_json

ARMS = {"rlvr": ("answer", "format"), "rltr": ("answer", "format", "transfer")}
WEIGHTS = {"answer": 1.0, "format": 0.1, "transfer": 1.0}
WINDOW = 5
"""Steps that a training accuracy is averaged over."""


@dataclass(frozen=True, slots=True)
class RltrStudy:
    """One seed's world and what is trained in it."""

    seed: int
    steps: int
    num_problems: int
    """Of each assessment."""
    num_samples: int
    folder: Path
    """Of this seed: a run folder an arm, assessed/."""
    config: WorldConfig
    stripped: bool = False
    """Whether transfer is also measured with the answer stripped from prefixes."""
    cache: Path | None = None

    @property
    def world(self) -> World:
        return build_world(self.config, self.cache)

    def run(self) -> dict[str, Any]:
        """before, rlvr, rltr: assess's numbers; and the steps until RLVR's final training accuracy."""
        found: dict[str, Any] = {
            "seed": self.seed,
            "before": self.assessed("before", self.world.generator),
        }
        for name in ARMS:
            found[name] = self.assessed(f"{name}-{self.steps}", run_stage(self.arm(name)))
        target = statistics.mean(self.training_accuracy("rlvr")[-WINDOW:])
        found["rlvr_final_training_accuracy"] = target
        reached = {name: steps_to(self.training_accuracy(name), target) for name in ARMS}
        found["steps_to_it"] = reached
        # one that never gets there counts as if it did a step after its last
        found["steps_counted"] = {name: reached[name] or self.steps + 1 for name in ARMS}
        return found

    def arm(self, name: str) -> RlConfig:
        """The recipe rltr-tiny with the arm's rewards; everything else is the same."""
        options = DemoOptions(dir=str(self.folder / name), steps=self.steps, seed=self.seed)
        config = demo_config(rl_recipe("rltr-tiny"), self.world, options)
        functions = ARMS[name]
        rewards = RewardConfig(functions=functions, weights=tuple(WEIGHTS[each] for each in functions))
        if name == "rlvr":
            config = replace(config, transfer=replace(config.transfer, receiver=PromptedConfig()))
        return replace(config, reward=rewards, eval=EvalConfig())

    def assessed(self, name: str, checkpoint: Path) -> dict[str, float]:
        """assess's numbers, kept in a file."""
        file = self.folder / "assessed" / f"{name}-{self.num_problems}x{self.num_samples}.json"
        if not file.exists():
            numbers = assess(
                checkpoint, self.world, num_problems=self.num_problems, num_samples=self.num_samples,
                stripped=self.stripped, seed=self.seed,
            )  # fmt: skip
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, numbers)
        return cast(dict[str, float], json.loads(file.read_text()))

    def training_accuracy(self, name: str) -> list[float]:
        """Of each of the arm's steps."""
        lines = read_metrics(self.folder / name / "metrics.jsonl")
        return [line["rewards/answer/mean"] for line in lines if 0 < line["step"] <= self.steps]


def steps_to(values: list[float], target: float) -> int | None:
    """First step whose value, averaged over WINDOW steps, is at least `target`; None: there is none."""
    ends = range(WINDOW, len(values) + 1)
    return next((end for end in ends if statistics.mean(values[end - WINDOW : end]) >= target), None)
