"""The InT study in the tiny world: trains and evaluates the arms of one seed.

    int         SFT on prefix + intervention, then RL
    rl          only RL
    reference   SFT on the references, then RL
    reflection  SFT on the solver's own correct solutions, sampled with the references, then RL
    hint        RL, each problem also with half of its reference in the prompt

All arms train on the same hard problems from the same solver, with equal budgets of sampled tokens. The
budget is what int spends on interventions (checks and continuations) and on `steps` RL steps. Every other arm
first pays for what it samples before RL; the rest buys RL steps, at the mean length of its first ten. The
hard set's rollouts are common to all and not counted; SFT samples nothing. Cells (only SFT) vary the cloned
text: selected interventions; each attempt's first one, unfiltered; no training on the prefix; completed
solutions. A stopped study resumes.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
import yaml

from fastrl.config import EngineConfig, InterveneConfig, PipelineConfig, RlConfig, SftConfig, resolved
from fastrl.config.load import from_dict, load_config, to_yaml
from fastrl.data.rows import Row, read_rows
from fastrl.engine.build import build_engine
from fastrl.engine.protocol import Engine
from fastrl.grading import AnswerGrader
from fastrl.methods.interventions.candidates import REJECTS, Candidate
from fastrl.methods.interventions.problems import hard_problem
from fastrl.runtime.run import read_metrics
from fastrl.stages.intervene import sft_row
from fastrl.stages.pipeline import in_folder
from fastrl.tiny.interventions.baselines import completed_rows, hinted_rows, reference_rows, reflected_rows
from fastrl.tiny.interventions.config import IntConfig
from fastrl.tiny.interventions.examples import GUIDED_TEMPLATE
from fastrl.tiny.interventions.make import IntWorld, build_int_world
from fastrl.tiny.interventions.measure import assess_solver, intervention_quality
from fastrl.tiny.world.traces import wrong_entries
from fastrl.train import run_stage
from fastrl.training.progress import Budget, summed, write_json, write_rows

ARMS = ("int", "rl", "reference", "reflection", "hint")
CELLS = ("kept", "unfiltered", "no_prefix", "suffix")
UNUSABLE = (*REJECTS, "leak")
HINT_TEMPLATE = "{question}\n{hint}"
PROBE_STEPS = 10
LAST_STEPS = 10


@dataclass(frozen=True, slots=True)
class InterventionStudy:
    """The world and the runs of one seed."""

    seed: int
    steps: int
    num_problems: int
    num_samples: int
    folder: Path
    """This seed's folder, with hard_set/, intervene/, and a folder per SFT and RL run."""
    config: IntConfig
    cache: Path | None = None

    @property
    def world(self) -> IntWorld:
        return build_int_world(self.config, self.cache)

    def pipeline(self) -> PipelineConfig:
        """Return the recipe with this seed's world and folder."""
        pipeline = recipe(self.world.folder)
        return replace(
            pipeline, run=replace(pipeline.run, dir=str(self.folder), seed=self.seed, device="cpu")
        )

    def stage(self, name: str, folder: str | None = None, **results: str) -> Any:
        """Return a stage of the recipe in a folder of this seed."""
        config = resolved(in_folder(self.pipeline(), name), results)
        return replace(config, run=replace(config.run, dir=str(self.folder / (folder or name))))

    def run(self, arms: Sequence[str], cells: Sequence[str]) -> dict[str, Any]:
        self.folder.mkdir(parents=True, exist_ok=True)
        run_stage(self.stage("hard_set"))
        run_stage(self.stage("intervene", hard_set=str(self.folder / "hard_set")))
        found: dict[str, Any] = {
            "seed": self.seed,
            "counts": read_json(self.folder / "hard_set" / "counts.json"),
            "funnel": read_json(self.folder / "intervene" / "funnel.json"),
            "quality": self.quality(),
            "before": self.assessed("before", self.world.solver),
        }
        found["arms"] = {arm: self.arm(arm) for arm in arms}
        found["cells"] = {cell: self.cell(cell) for cell in cells}
        return found

    @property
    def hard(self) -> list[Row]:
        return read_rows(str(self.folder / "hard_set" / "hard.jsonl"))

    def quality(self) -> dict[str, float]:
        candidates = read_rows(str(self.folder / "intervene" / "interventions.jsonl"))
        return intervention_quality(self.hard, candidates, self.intervene_config().steps)

    def intervene_config(self) -> InterveneConfig:
        return cast(InterveneConfig, self.stage("intervene", hard_set=str(self.folder / "hard_set")))

    def assessed(self, name: str, checkpoint: Path, on: str = "test") -> dict[str, float]:
        """Return assess_solver's metrics on test, or on hard, the training problems; cached in a file."""
        file = self.folder / "assessed" / f"{name}-{on}-{self.num_problems}x{self.num_samples}.json"
        problems = self.world.test if on == "test" else self.folder / "hard_set" / "hard.jsonl"
        if not file.exists():
            world = self.config.world
            table = wrong_entries(world.num_wrong_entries, world.seed, world.chains.modulus)
            numbers = assess_solver(
                checkpoint, problems, table,
                num_problems=self.num_problems, num_samples=self.num_samples, seed=self.seed,
            )  # fmt: skip
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, numbers)
        return cast(dict[str, float], read_json(file))

    def sft(self, name: str, data: Path, prefix_weight: float = 1.0) -> tuple[Path, dict[str, float]]:
        """Run the recipe's SFT on other rows; return the checkpoint and metrics of entropy and likelihood."""
        config = cast(SftConfig, self.stage("sft", f"sft-{name}"))
        config = replace(config, data=replace(config.data, path=str(data)), prefix_weight=prefix_weight)
        checkpoint = run_stage(config)
        first, *lines = read_metrics(Path(config.run.dir) / "metrics.jsonl")
        last = lines[-LAST_STEPS:]
        return checkpoint, {
            "rows": float(len(read_rows(str(data)))),
            "steps": float(lines[-1]["step"]),
            "base/nll": first["base/nll"],
            "base/entropy": first["base/entropy"],
            "entropy": statistics.mean(line["entropy"] for line in last),
        }

    def arm(self, name: str) -> dict[str, Any]:
        """Prepare, train and assess an arm."""
        found: dict[str, Any] = {}
        start, problems, spent = self.world.solver, self.folder / "hard_set" / "hard.jsonl", 0
        if name == "hint":
            problems = self.written("hint", lambda _: hinted_rows(self.hard, template=HINT_TEMPLATE))
        elif name != "rl":
            rows = self.sft_rows(name)
            start, found["sft"] = self.sft(name, rows)
            found["after_sft"] = self.assessed(f"sft-{name}", start)
            spent = sampled_tokens(rows.parent)
        budget = sampled_tokens(self.folder / "intervene") + self.reinforced_tokens(self.steps)
        num_steps = self.steps if name == "int" else self.affordable(name, start, problems, budget - spent)
        final = run_stage(self.rl(name, start, problems, num_steps))
        lines = self.steps_of(name)[:num_steps]
        found["rl"] = {
            "steps": float(num_steps),
            "zero_advantage": statistics.mean(line["frac_reward_zero_std"] for line in lines),
            "entropy": mean_of("entropy", lines[-LAST_STEPS:]),
        }
        learnt = sum(line["num_tokens"] for line in lines)
        found["tokens"] = {"before_rl": spent, "rl": learnt, "all": spent + learnt, "allowed": budget}
        return found | {"after": self.assessed(f"{name}-{num_steps}", final)}

    def reinforced_tokens(self, num_steps: int) -> float:
        """Return the tokens sampled in the first steps of int's RL, running it if needed."""
        start, _ = self.sft("int", self.sft_rows("int"))
        run_stage(self.rl("int", start, self.folder / "hard_set" / "hard.jsonl", num_steps))
        return float(sum(line["num_tokens"] for line in self.steps_of("int")[:num_steps]))

    def affordable(self, name: str, start: Path, problems: Path, tokens: float) -> int:
        """Return the RL steps that a token budget allows, from the mean of the first PROBE_STEPS steps."""
        probe = min(PROBE_STEPS, self.steps)
        if len(self.steps_of(name)) < probe:
            run_stage(self.rl(name, start, problems, probe))
        mean: float = statistics.mean(line["num_tokens"] for line in self.steps_of(name)[:probe])
        return max(probe, math.ceil(tokens / mean))

    def rl(self, name: str, start: Path, problems: Path, num_steps: int) -> RlConfig:
        """Return the recipe's RL stage with another initial model and other problems."""
        config = cast(RlConfig, self.stage("rl", f"rl-{name}"))
        return replace(
            config,
            model=replace(config.model, path=str(start)),
            data=replace(config.data, path=str(problems)),
            train=replace(config.train, num_steps=num_steps),
            eval=replace(config.eval, path=None),
        )

    def steps_of(self, name: str) -> list[dict[str, Any]]:
        file = self.folder / f"rl-{name}" / "metrics.jsonl"
        return [line for line in read_metrics(file) if line["step"] > 0] if file.exists() else []

    def sft_rows(self, name: str) -> Path:
        """Return the file of SFT rows of an arm or cell; budget.json is next to it."""
        kept = self.folder / "intervene" / "sft.jsonl"
        if name == "reference":
            return self.written(name, lambda _: reference_rows(self.hard))
        if name == "reflection":
            return self.written(name, self.reflected)
        if name == "unfiltered":
            return self.written(name, lambda _: self.unfiltered())
        if name == "suffix":
            return self.written(name, lambda budget: self.completed(read_rows(str(kept)), budget))
        return kept

    def written(self, name: str, make: Callable[[Budget], list[Row]]) -> Path:
        """Write rows and their budget to a folder, unless they exist; return the file of rows."""
        folder = self.folder / name
        if not (folder / "rows.jsonl").exists():
            budget: Budget = {}
            rows = make(budget)
            folder.mkdir(exist_ok=True)
            write_json(
                folder / "budget.json", summed([{name: dict(spent) for name, spent in budget.items()}])
            )
            write_rows(folder / "rows.jsonl", rows)
        return folder / "rows.jsonl"

    def reflected(self, budget: Budget) -> list[Row]:
        config = self.stage("hard_set")
        with AnswerGrader(num_workers=1, timeout_s=5.0) as grader:
            return reflected_rows(
                self.engine(), grader, self.hard, config.sampling, budget,
                num_samples=4, keep=config.keep_attempts, seed=self.seed, template=GUIDED_TEMPLATE,
            )  # fmt: skip

    def completed(self, interventions: list[Row], budget: Budget) -> list[Row]:
        config = self.intervene_config()
        with AnswerGrader(num_workers=1, timeout_s=5.0) as grader:
            return completed_rows(
                self.engine(), grader, interventions, config.continuation, budget,
                num_samples=config.num_continuations, seed=self.seed,
            )  # fmt: skip

    def engine(self) -> Engine:
        config = self.stage("hard_set")
        return build_engine(config.model, EngineConfig(), torch.device("cpu"))

    def unfiltered(self) -> list[Row]:
        """Return SFT rows of every attempt's first usable proposal: filter none, select first."""
        steps = self.intervene_config().steps
        problems = [hard_problem(index, row, steps) for index, row in enumerate(self.hard)]
        first: dict[tuple[int, int], Candidate] = {}
        for row in read_rows(str(self.folder / "intervene" / "interventions.jsonl")):
            row.pop("gain")
            candidate = Candidate(**row)
            if candidate.outcome not in UNUSABLE:
                first.setdefault((candidate.problem, candidate.attempt), candidate)
        return [sft_row(problems[candidate.problem], candidate) for candidate in first.values()]

    def cell(self, name: str) -> dict[str, Any]:
        """Train with SFT only, on one variant of the cloned text; the recipe's variant is `kept`."""
        rows = self.sft_rows(name)
        run = "int" if name == "kept" else name
        checkpoint, sft_metrics = self.sft(run, rows, prefix_weight=0.0 if name == "no_prefix" else 1.0)
        return {
            "sft": sft_metrics,
            "hard": self.assessed(f"sft-{run}", checkpoint, on="hard"),
            "test": self.assessed(f"sft-{run}", checkpoint),
        }


@cache
def recipe(world: Path) -> PipelineConfig:
    """Return the recipe int-tiny with a world's paths."""
    text = to_yaml(load_config("int-tiny")).replace("tiny-world/", f"{world}/")
    return cast(PipelineConfig, from_dict(yaml.safe_load(text)))


def mean_of(name: str, lines: list[dict[str, Any]]) -> float | None:
    """Average a metric over the lines that have it; a step without gradient has no entropy."""
    values = [line[name] for line in lines if line.get(name) is not None]
    return statistics.mean(values) if values else None


def sampled_tokens(folder: Path) -> int:
    """Return the total of sampled tokens in a folder's budget.json."""
    return int(read_json(folder / "budget.json")["total"].get("sampled_tokens", 0))


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())
