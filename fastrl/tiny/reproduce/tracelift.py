"""The TraceLift study in the tiny world: trains one seed's planner with each form of the reward; resumable.

Forms: product (the paper's quality x uplift), execution (only the executor's result), quality, uplift, and
sum (the mean of quality and uplift).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast, get_args

import yaml

from fastrl.config import EvalConfig, PipelineConfig, RlConfig, resolved
from fastrl.config.load import from_dict, load_config, to_yaml
from fastrl.config.uplift import Form
from fastrl.stages.pipeline import in_folder
from fastrl.tiny.folders import export
from fastrl.tiny.tracelift.assess import assess_lift
from fastrl.tiny.tracelift.config import LiftConfig
from fastrl.tiny.tracelift.make import copy_lift_world
from fastrl.tiny.world.make import copy_world
from fastrl.train import run_stage
from fastrl.training.progress import write_json

FORMS: tuple[Form, ...] = get_args(Form)
EXECUTORS = ("executor", "held_out_executor")


@dataclass(frozen=True, slots=True)
class TraceliftStudy:
    """The world and the runs of one seed."""

    task: str
    seed: int
    steps: int
    num_problems: int
    """Problems per evaluation, with four samples each."""
    folder: Path
    """This seed's folder: world/, groups/, reward_model/, and a run folder per form and number of steps."""
    config: LiftConfig

    @property
    def world(self) -> Path:
        return self.folder / "world"

    def pipeline(self) -> PipelineConfig:
        """Return the recipe with this seed's world and folder."""
        text = to_yaml(load_config(f"tracelift-{self.task}-tiny"))
        pipeline = cast(
            PipelineConfig, from_dict(yaml.safe_load(text.replace("tiny-world/", f"{self.world}/")))
        )
        run = replace(pipeline.run, dir=str(self.folder), seed=self.seed, device="cpu")
        return replace(pipeline, run=run)

    def arm_name(self, form: Form) -> str:
        return f"{form}-{self.steps}"

    def arm(self, form: Form, results: dict[str, str]) -> RlConfig:
        """Return the recipe's RL stage with one form of the reward and no other changes."""
        config = cast(RlConfig, resolved(in_folder(self.pipeline(), "rl"), results))
        return replace(
            config,
            run=replace(config.run, dir=str(self.folder / self.arm_name(form))),
            uplift=replace(config.uplift, form=form),
            train=replace(config.train, num_steps=self.steps),
            eval=EvalConfig(),
        )

    def run(self, forms: Sequence[Form]) -> dict[str, Any]:
        if not self.world.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            export(
                self.world,
                [lambda to: copy_world(to, self.config.world), lambda to: copy_lift_world(to, self.config)],
            )
        pipeline = self.pipeline()
        results: dict[str, str] = {}
        for name in ("groups", "reward_model"):
            results[name] = str(run_stage(resolved(in_folder(pipeline, name), results)))
        judge = json.loads((self.folder / "reward_model" / "eval.json").read_text())
        found: dict[str, Any] = {"seed": self.seed, "reward_model": judge}
        found["before"] = self.assessed("before", partial(Path, self.world / "planner"))
        for form in forms:
            found[form] = self.assessed(self.arm_name(form), partial(run_stage, self.arm(form, results)))
        return found

    def assessed(self, name: str, planner: Callable[[], Path]) -> dict[str, float]:
        """Return assess_lift's metrics, cached in a file."""
        file = self.folder / "assessed" / f"{name}-{self.num_problems}.json"
        if not file.exists():
            executors = {name: self.world / name for name in EXECUTORS}
            recipe = cast(RlConfig, self.pipeline().stages["rl"])
            numbers = assess_lift(
                planner(), executors, recipe, num_problems=self.num_problems, seed=self.seed
            )
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, numbers)
        return cast(dict[str, float], json.loads(file.read_text()))
