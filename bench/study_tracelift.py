"""TraceLift in the tiny world: the full reward against its parts, seed by seed.

    python -m bench.study_tracelift --seeds 0 1 2 --steps 60 --out bench/results/tracelift_study.json

Every seed makes a world of its own (problems, planner, executors), builds groups and trains a reward model
once, then trains the same planner by each form of the reward: quality x uplift as in the paper, the result of
execution alone, quality alone, uplift alone, half their sum. What was stopped goes on. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast, get_args

import yaml

from fastrl.config import EvalConfig, PipelineConfig, RlConfig, resolved
from fastrl.config.uplift import Form
from fastrl.load import from_dict, load_config, to_yaml
from fastrl.pipeline import in_folder
from fastrl.run import environment, write_atomic
from fastrl.tiny.config import WorldConfig
from fastrl.tiny.lift import export_lift_world
from fastrl.tiny.lift_assess import assess_lift
from fastrl.tiny.lift_config import LiftConfig
from fastrl.train import run_stage

FORMS: tuple[Form, ...] = get_args(Form)
EXECUTORS = ("executor", "held_out_executor")
SHOWN = (
    "two_stage/executor", "two_stage/held_out_executor", "alone/executor", "alone/held_out_executor",
    "trace/accuracy", "trace/step_accuracy", "trace/faithful", "trace/legible", "trace/rubric",
    "trace/style/explicit", "trace/style/leap", "trace/style/private", "trace/leak",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Study:
    """One seed's world and what is trained in it."""

    task: str
    seed: int
    steps: int
    folder: Path
    """Of this seed: world/, groups/, reward_model/, and a run folder a form and number of steps."""

    @property
    def world(self) -> Path:
        return self.folder / "world"

    def pipeline(self) -> PipelineConfig:
        """The recipe, in this seed's world and folder."""
        text = to_yaml(load_config(f"tracelift-{self.task}-tiny"))
        pipeline = cast(
            PipelineConfig, from_dict(yaml.safe_load(text.replace("tiny-world/", f"{self.world}/")))
        )
        run = replace(pipeline.run, dir=str(self.folder), seed=self.seed, device="cpu")
        return replace(pipeline, run=run)

    def arm_name(self, form: Form) -> str:
        return f"{form}-{self.steps}"

    def arm(self, form: Form, results: dict[str, str]) -> RlConfig:
        """The recipe's RL stage by one form of the reward; everything else is the same."""
        config = cast(RlConfig, resolved(in_folder(self.pipeline(), "rl"), results))
        return replace(
            config,
            run=replace(config.run, dir=str(self.folder / self.arm_name(form))),
            uplift=replace(config.uplift, form=form),
            train=replace(config.train, num_steps=self.steps),
            eval=EvalConfig(),
        )

    def run(self, forms: list[Form]) -> dict[str, Any]:
        if not self.world.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            partial_world = self.folder / "world.part"
            shutil.rmtree(partial_world, ignore_errors=True)
            export_lift_world(partial_world, LiftConfig(world=WorldConfig(seed=self.seed)))
            partial_world.rename(self.world)
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
        """assess_lift's numbers, kept in a file."""
        file = self.folder / f"{name}.json"
        if not file.exists():
            executors = {each: self.world / each for each in EXECUTORS}
            recipe = cast(RlConfig, self.pipeline().stages["rl"])
            numbers = assess_lift(planner(), executors, recipe, num_problems=256, seed=self.seed)
            write_atomic(file, json.dumps(numbers))
        return cast(dict[str, float], json.loads(file.read_text()))


def table(seeds: list[dict[str, Any]], arms: list[str]) -> str:
    """Mean over seeds, and each seed's number, a row a metric and a column an arm."""
    rows = [["", *arms]]
    for name in SHOWN:
        values = [[seed[arm][name] for seed in seeds] for arm in arms]
        rows.append(
            [name] + [f"{statistics.mean(v):.3f} ({' '.join(f'{x:.2f}' for x in v)})" for v in values]
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def judge_table(seeds: list[dict[str, Any]]) -> str:
    """The reward models on held-out groups: pairs and groups in order, on the whole and by kind."""
    metrics = [seed["reward_model"]["metrics"] for seed in seeds]
    kinds = sorted(
        {name.partition("/")[2] for each in metrics for name in each if name.startswith("pair_accuracy/")}
    )
    lines = []
    for label, end in (("all", ""), *((kind, f"/{kind}") for kind in kinds)):
        pairs, groups = (
            [each[f"{name}_accuracy{end}"] for each in metrics if f"{name}_accuracy{end}" in each]
            for name in ("pair", "group")
        )
        lines.append(f"{label:18s} pairs {statistics.mean(pairs):.3f}   groups {statistics.mean(groups):.3f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", choices=("math", "code"), default="math")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--runs", type=Path, default=Path("runs/study-tracelift"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    seeds = []
    for seed in options.seeds:
        folder = options.runs / f"{options.task}-{seed}"
        seeds.append(Study(options.task, seed, options.steps, folder).run(options.forms))
    print(judge_table(seeds))
    print(table(seeds, ["before", *options.forms]))
    report = {
        "bench": "study_tracelift",
        "task": options.task,
        "steps": options.steps,
        "results": seeds,
        "environment": environment(),
    }
    if options.out:
        options.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
