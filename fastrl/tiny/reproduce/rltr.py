"""The RLTR study in the tiny world: trains one seed's generator with RLVR and with RLTR; resumable."""

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
    """The world and the runs of one seed."""

    seed: int
    steps: int
    num_problems: int
    """Problems per evaluation."""
    num_samples: int
    folder: Path
    """This seed's folder, with a run folder per arm and assessed/."""
    config: WorldConfig
    stripped: bool = False
    """Also measure transfer with the answer stripped from prefixes."""
    cache: Path | None = None

    @property
    def world(self) -> World:
        return build_world(self.config, self.cache)

    def run(self) -> dict[str, Any]:
        """Return assess's metrics of before, rlvr, rltr, and the steps to RLVR's final training accuracy."""
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
        # an arm that never reaches it counts with one step more than its last
        found["steps_counted"] = {name: reached[name] or self.steps + 1 for name in ARMS}
        return found

    def arm(self, name: str) -> RlConfig:
        """Return the recipe rltr-tiny with the arm's rewards and no other changes."""
        options = DemoOptions(dir=str(self.folder / name), steps=self.steps, seed=self.seed)
        config = demo_config(rl_recipe("rltr-tiny"), self.world, options)
        functions = ARMS[name]
        rewards = RewardConfig(
            functions=functions, weights=tuple(WEIGHTS[function] for function in functions)
        )
        if name == "rlvr":
            config = replace(config, transfer=replace(config.transfer, receiver=PromptedConfig()))
        return replace(config, reward=rewards, eval=EvalConfig())

    def assessed(self, name: str, checkpoint: Path) -> dict[str, float]:
        """Return assess's metrics, cached in a file."""
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
        """Return the training accuracy of each of the arm's steps."""
        lines = read_metrics(self.folder / name / "metrics.jsonl")
        return [line["rewards/answer/mean"] for line in lines if 0 < line["step"] <= self.steps]


def steps_to(values: list[float], target: float) -> int | None:
    """Return the first step at which the mean over WINDOW steps reaches `target`; None if there is none."""
    ends = range(WINDOW, len(values) + 1)
    return next((end for end in ends if statistics.mean(values[end - WINDOW : end]) >= target), None)
