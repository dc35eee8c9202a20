"""Weak supervision in the tiny world: does faithfulness or diversity before RL tell who will generalise?

    python -m bench.study_weak --seeds 1 2 3 --steps 30 --out bench/results/weak_study.json

Six generators, taught to write from faithfully to unfaithfully (fastrl/tiny/weak_config.py; every seed
teaches its own, on problems of its own), are trained in three settings, the recipes
weak-{scarce,noise,majority}-tiny: 8 problems; 7 of 10 labels wrong; a vote. Measured before RL, on problems
that the generator solves sometimes: labels of the exact step checker, probes without a judge, diversity of
strategies, and that of the faithful responses. After RL: when the training reward saturates (the tail is a
tenth of the steps), gains on held-out problems and on longer ones, alarms beside the hidden gold reward. One
generator is also trained by its self-certainty, for twice as many steps. A mix has failed a setting where its
final accuracy, mean over seeds, is --margin below the best mix's: it gets SFT on explicit traces that slip as
often as those it was taught with, and is trained again.

What was stopped goes on. Beside --out: curves and scatter as PNG. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, cast

import torch
import yaml

from bench.study_weak_report import correlations, curves_png, failed, final, report_text, scatter_png
from fastrl.build import build_engine, build_probes
from fastrl.config import (
    DataConfig,
    EngineConfig,
    EvalConfig,
    FaithfulnessConfig,
    ModelConfig,
    PipelineConfig,
    RlConfig,
    RunConfig,
    SftConfig,
    SubsetConfig,
    TrainConfig,
    resolved,
)
from fastrl.data import load_problems
from fastrl.engine.protocol import Engine
from fastrl.evaluate.accuracy import evaluate
from fastrl.evaluate.labelled import measure
from fastrl.evaluate.probes import probe
from fastrl.evaluate.saturation import ema, first_alarm, gains, has_collapsed, saturation_step
from fastrl.load import from_dict, load_config, to_yaml
from fastrl.run import environment, read_metrics, write_atomic
from fastrl.seeding import seed_of
from fastrl.stages.progress import write_json
from fastrl.tiny.examples import write_jsonl
from fastrl.tiny.task import draw_chains
from fastrl.tiny.traces import work
from fastrl.tiny.weak_config import MIXES, WeakConfig, weak_world
from fastrl.tiny.weak_world import WeakWorld, build_weak_world
from fastrl.train import run_stage
from fastrl.types import SamplingParams
from fastrl.verify import AnswerGrader

SETTINGS = ("scarce", "noise", "majority")
SIZES = (8, 64)
RESCUE_STEPS = 100
MAX_NEW_TOKENS = 64
PROBED_PROBLEMS = 16
FAITHFULNESS = FaithfulnessConfig(
    enabled=True, num_problems=PROBED_PROBLEMS, num_samples=16, forcing_text="\\boxed{", forcing_end="}",
    answer_tokens=4, slack_tokens=32, corrupt="fastrl.tiny.faithful.spoil",
    checker="fastrl.tiny.faithful.aligned", diversity=True, strategy="fastrl.tiny.faithful.strategy",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Study:
    """One mix and seed: what is measured before RL and trained in each setting."""

    mix: str
    seed: int
    steps: int
    every: int
    """Steps between evaluations."""
    num_problems: int
    """Of each evaluation, four samples a problem."""
    runs: Path
    config: WeakConfig
    rescued: bool = False
    """Whether RL begins after SFT on explicit traces."""
    cache: Path | None = None

    @property
    def world(self) -> WeakWorld:
        return build_weak_world(replace(self.config, mix=self.mix), self.cache)

    @property
    def name(self) -> str:
        return f"{self.mix}-rescued" if self.rescued else self.mix

    @property
    def folder(self) -> Path:
        return self.runs / self.name / str(self.seed)

    def start(self) -> Path:
        """The checkpoint that RL begins with."""
        if not self.rescued:
            return self.world.generator
        folder = self.folder / "sft"
        done = folder / "done.json"
        if not done.exists():
            folder.mkdir(parents=True, exist_ok=True)
            trained = run_stage(self.rescue(folder))
            write_json(done, {"checkpoint": str(trained)})
        return Path(json.loads(done.read_text())["checkpoint"])

    def rescue(self, folder: Path) -> SftConfig:
        """SFT on explicit traces of other problems; slips as in the explicit mix."""
        world, batch_size = self.config.world, 12
        chains = draw_chains(
            world.chains, RESCUE_STEPS * batch_size, seed=seed_of(world.seed, "rescue"), split="train"
        )
        random = Random(seed_of(world.seed, "slips"))
        slip_rate = MIXES["explicit"].slip_rates[0]
        rows = ({"prompt": c.expression, "completion": work(c, random, slip_rate=slip_rate)} for c in chains)
        write_jsonl(folder / "traces.jsonl", rows)
        return SftConfig(
            run=RunConfig(dir=str(folder / "run"), device="cpu", save_every=0),
            model=ModelConfig(path=str(self.world.generator), dtype="float32"),
            data=DataConfig(path=str(folder / "traces.jsonl")),
            train=TrainConfig(num_steps=RESCUE_STEPS, learning_rate=2e-3, warmup_steps=5),
            batch_size=batch_size,
            schedule="cosine",
        )

    def subset(self) -> Path:
        """Problems that the start solves sometimes, with their wrong labels."""
        config = cast(SubsetConfig, recipe("weak-noise-tiny", self.world.folder).stages["subset"])
        return run_stage(
            replace(
                config,
                run=replace(config.run, dir=str(self.folder / "subset"), seed=self.seed, device="cpu"),
                model=replace(config.model, path=str(self.start())),
                sizes=SIZES,
            )
        )

    def before(self) -> dict[str, float]:
        """Faithfulness, diversity and accuracy of the start; kept in a file."""
        file = self.folder / f"before-{self.num_problems}.json"
        if not file.exists():
            path = str(self.subset() / f"subset-{SIZES[-1]}.jsonl")
            engine = load_engine(self.start())
            probes = build_probes(FAITHFULNESS, DataConfig(), path)
            assert probes is not None  # it is enabled
            with AnswerGrader(num_workers=1, timeout_s=5.0) as grader:
                probed = probe(
                    engine, probes, grader,
                    sampling=SamplingParams(max_new_tokens=MAX_NEW_TOKENS), seed=self.seed,
                )  # fmt: skip
                numbers = dict(measure(probed, probes, {}).metrics)
            write_json(file, numbers | self.accuracy(engine))
        return cast(dict[str, float], json.loads(file.read_text()))

    def accuracy(self, engine: Engine) -> dict[str, float]:
        """avg@4 on held-out problems and on longer ones; the same samples for all checkpoints of a seed."""
        found = {}
        with AnswerGrader(num_workers=1, timeout_s=5.0) as grader:
            for name in ("test", "long"):
                problems = load_problems(DataConfig(path=str(self.world.file(name)), limit=self.num_problems))
                result = evaluate(
                    engine, problems, grader, num_samples=4,
                    sampling=SamplingParams(max_new_tokens=MAX_NEW_TOKENS), seed=seed_of(self.seed, name),
                )  # fmt: skip
                found |= {name: result.metrics["avg@4"], f"{name}/pass@4": result.metrics["pass@4"]}
        return found

    def rl(self, setting: str, steps: int) -> RlConfig:
        """The setting's recipe from this start, evaluated afterwards, at its checkpoints."""
        config = recipe(f"weak-{setting}-tiny", self.world.folder)
        if isinstance(config, PipelineConfig):
            config = resolved(config.stages["rl"], {"subset": str(self.subset())})
        assert isinstance(config, RlConfig)
        return replace(
            config,
            run=RunConfig(
                dir=str(self.folder / f"{setting}-{steps}"), seed=self.seed, device="cpu",
                save_every=self.every, keep_last=steps // self.every + 2, log_completions_every=0,
            ),
            model=replace(config.model, path=str(self.start())),
            reward=replace(config.reward, answer_workers=1),
            train=replace(config.train, num_steps=steps),
            eval=EvalConfig(),
        )  # fmt: skip

    def trained(self, setting: str, steps: int) -> dict[str, Any]:
        """What became of the start in a setting; kept in a file."""
        file = self.folder / f"{setting}-{steps}-{self.num_problems}.json"
        if not file.exists():
            config, before = self.rl(setting, steps), self.before()
            run_stage(config)
            curves: dict[str, dict[int, float]] = {name: {0: before[name]} for name in ("test", "long")}
            for folder in sorted(Path(config.run.dir, "checkpoints").glob("step-*")):
                numbers = self.accuracy(load_engine(folder))
                for name, curve in curves.items():
                    curve[int(folder.name.removeprefix("step-"))] = numbers[name]
            lines = read_metrics(Path(config.run.dir, "metrics.jsonl"))
            write_json(file, outcome(setting, lines[1:], curves))
            shutil.rmtree(Path(config.run.dir, "checkpoints"))
        found = cast(dict[str, Any], json.loads(file.read_text()))
        return {"mix": self.name, "seed": self.seed, "before": self.before(), **found}


def outcome(setting: str, lines: list[dict[str, Any]], curves: dict[str, dict[int, float]]) -> dict[str, Any]:
    """Saturation, gains and alarms of a run, by the definitions of fastrl/evaluate/saturation.py.

    Args:
        lines: of metrics.jsonl, a step each.
        curves: {step: accuracy} on test and long, with step 0.
    """
    rewards = [line["reward"] for line in lines]
    gold = [line["rewards/answer/mean"] for line in lines]
    tail = len(lines) // 10
    t_sat = saturation_step(rewards, tail=tail)
    smooth = saturation_step(ema(rewards), tail=tail)
    found: dict[str, Any] = {
        "setting": setting, "steps": len(lines), "rewards": rewards, "gold": gold, "curves": curves,
        "t_sat": t_sat, "t_sat_ema": smooth,
        "effective": statistics.mean(line["groups/effective"] for line in lines),
        "alarm": next((line["step"] for line in lines if line["alarm/collapse"]), None),
        "gold_collapse": first_alarm(gold, has_collapsed),
    }  # fmt: skip
    alarm, collapse = found["alarm"], found["gold_collapse"]
    found["lead"] = None if alarm is None or collapse is None else collapse - alarm
    for name, curve in curves.items():
        last = max(curve)
        found[f"{name}/final"], found[f"{name}/gain"] = curve[last], curve[last] - curve[0]
        found[f"{name}/drop"] = max(curve.values()) - curve[last]
        if smooth is not None:
            gained = gains(curve, smooth)
            found[f"{name}/until"], found[f"{name}/after"] = gained.until, gained.strictly_after
    return found


@cache
def recipe(name: str, world: Path) -> Any:
    """A recipe in a world; models are put in by whoever asks."""
    return from_dict(yaml.safe_load(to_yaml(load_config(name)).replace("tiny-world/", f"{world}/")))


def load_engine(checkpoint: Path) -> Engine:
    return build_engine(
        ModelConfig(path=str(checkpoint), dtype="float32"), EngineConfig(), torch.device("cpu")
    )


def told(run: dict[str, Any]) -> dict[str, Any]:
    print(
        f"{run['setting']:14s} {run['mix']:22s} seed {run['seed']}  test {run['before']['test']:.2f} -> "
        f"{run['test/final']:.2f}  long {run['before']['long']:.2f} -> {run['long/final']:.2f}  "
        f"t_sat {run['t_sat_ema']}",
        flush=True,
    )
    return run


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mixes", nargs="+", choices=MIXES, default=list(MIXES))
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--certain", choices=MIXES, default="mixed", help="trained by its self-certainty")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=30, help="RL steps; self-certainty: twice as many")
    parser.add_argument("--every", type=int, default=6, help="steps between evaluations")
    parser.add_argument("--problems", type=int, default=40, help="problems of an evaluation")
    parser.add_argument("--margin", type=float, default=0.15, help="below the best mix: failed")
    parser.add_argument("--teach", type=int, help="steps of the generators' teaching; default: the world's")
    parser.add_argument("--cache", type=Path, help="folder of worlds; default: as fastrl tiny")
    parser.add_argument("--runs", type=Path, default=Path("runs/study-weak"))
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main() -> None:
    options = parsed()
    world = weak_world()
    if options.teach:
        world = replace(world, generator=replace(world.generator, num_steps=options.teach))
    studies = [
        Study(
            mix, seed, options.steps, options.every, options.problems, options.runs,
            WeakConfig(world=replace(world, seed=seed)), cache=options.cache,
        )
        for mix in options.mixes
        for seed in options.seeds
    ]  # fmt: skip
    runs = [told(study.trained(setting, study.steps)) for setting in options.settings for study in studies]
    certain = [
        told(study.trained("selfcertainty", 2 * study.steps))
        for study in studies
        if study.mix == options.certain
    ]
    rescued = [
        told(replace(study, rescued=True).trained(setting, study.steps))
        for setting, mix in failed(runs, options.margin)
        for study in studies
        if study.mix == mix
    ]
    found = correlations(runs)
    print(report_text(runs, certain, rescued, found))
    report = {
        "bench": "study_weak",
        "steps": options.steps,
        "margin": options.margin,
        "runs": runs,
        "self_certainty": certain,
        "rescued": rescued,
        "correlations": found,
        "final": final(runs),
        "environment": environment(),
    }
    if options.out:
        curves_png([*runs, *certain], options.out.with_name(f"{options.out.stem}_curves.png"))
        scatter_png(runs, options.out.with_name(f"{options.out.stem}_scatter.png"))
        write_atomic(options.out, json.dumps(report, indent=2) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
