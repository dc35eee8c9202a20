"""The weak-supervision study in the tiny world: trains one initial model in several settings; resumable.

Settings are the recipes weak-<setting>-tiny: scarce (8 problems), noise (7 of 10 labels wrong), majority (a
vote), selfcertainty. `noise=0.3` is noise with 3 of 10 labels wrong, on the same problems.
"""

from __future__ import annotations

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

from fastrl.config import (
    CheckpointConfig,
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
from fastrl.config.load import from_dict, load_config, to_yaml
from fastrl.data import load_problems
from fastrl.engine.build import build_engine
from fastrl.engine.protocol import Engine
from fastrl.evaluate.accuracy import evaluate
from fastrl.evaluate.saturation import ema, first_alarm, gains, has_collapsed, saturation_step
from fastrl.grading import AnswerGrader
from fastrl.methods.weak.build import build_probes
from fastrl.methods.weak.labelled import measure
from fastrl.methods.weak.probes import probe
from fastrl.runtime.run import read_metrics
from fastrl.runtime.seeding import seed_of
from fastrl.tiny.weak.config import MIXES, WeakConfig
from fastrl.tiny.weak.make import WeakWorld, build_weak_world
from fastrl.tiny.world.examples import write_jsonl
from fastrl.tiny.world.task import draw_chains
from fastrl.tiny.world.traces import work
from fastrl.train import run_stage
from fastrl.training.progress import write_json
from fastrl.types import SamplingParams

SIZES = (8, 64)
RESCUE_STEPS = 100
MAX_NEW_TOKENS = 64
PROBED_PROBLEMS = 16
FAITHFULNESS = FaithfulnessConfig(
    enabled=True, num_problems=PROBED_PROBLEMS, num_samples=16, forcing_text="\\boxed{", forcing_end="}",
    answer_tokens=4, slack_tokens=32, corrupt="fastrl.tiny.weak.faithful.spoil",
    checker="fastrl.tiny.weak.faithful.aligned", diversity=True,
    strategy="fastrl.tiny.weak.faithful.strategy",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class WeakStudy:
    """One mix and seed: metrics before RL, and runs in each setting."""

    mix: str
    seed: int
    steps: int
    every: int
    """Steps between evaluations."""
    num_problems: int
    """Problems per evaluation, with four samples each."""
    runs: Path
    config: WeakConfig
    rescued: bool = False
    """Start RL after SFT on explicit traces."""
    probed: bool = True
    """Measure faithfulness and diversity before RL, in addition to accuracy."""
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
        """Return the initial checkpoint of RL, running SFT first if `rescued`."""
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
        """Return SFT on explicit traces of other problems, written here with the explicit mix's slips."""
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
            train=TrainConfig(
                num_steps=RESCUE_STEPS, learning_rate=2e-3, lr_scheduler_type="cosine", warmup_steps=5
            ),
            batch_size=batch_size,
        )

    def subset(self) -> Path:
        """Run the subset stage: problems that the initial model sometimes solves, with wrong labels."""
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
        """Return the initial model's accuracy, faithfulness and diversity, cached in a file."""
        file = self.folder / f"before-{self.num_problems}.json"
        if not file.exists():
            engine = load_engine(self.start())
            numbers = self.probe(engine) if self.probed else {}
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(file, numbers | self.accuracy(engine))
        return cast(dict[str, float], json.loads(file.read_text()))

    def probe(self, engine: Engine) -> dict[str, float]:
        """Measure faithfulness and diversity on problems that the initial model sometimes solves."""
        probes = build_probes(FAITHFULNESS, DataConfig(), str(self.subset() / f"subset-{SIZES[-1]}.jsonl"))
        assert probes is not None  # it is enabled
        with AnswerGrader(num_workers=1, timeout_s=5.0) as grader:
            sampling = SamplingParams(max_new_tokens=MAX_NEW_TOKENS)
            probed = probe(engine, probes, grader, sampling=sampling, seed=self.seed)
        return dict(measure(probed, probes, {}).metrics)

    def accuracy(self, engine: Engine) -> dict[str, float]:
        """Measure avg@4 and pass@4 on held-out and longer problems, with equal seeds for all checkpoints."""
        found: dict[str, float] = {}
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
        """Return the setting's recipe with this initial model; checkpoints are evaluated after training."""
        name, _, share = setting.partition("=")
        config = recipe(f"weak-{name}-tiny", self.world.folder)
        if isinstance(config, PipelineConfig):
            config = resolved(config.stages["rl"], {"subset": str(self.subset())})
        assert isinstance(config, RlConfig)
        if share:
            config = replace(config, labels=replace(config.labels, share=float(share)))
        return replace(
            config,
            run=RunConfig(
                dir=str(self.folder / f"{setting}-{steps}"), seed=self.seed, device="cpu",
                save_every=self.every, keep_last=steps // self.every + 2, log_completions_every=0,
            ),
            model=replace(config.model, path=str(self.start())),
            answer=replace(config.answer, workers=1),
            train=replace(config.train, num_steps=steps),
            eval=EvalConfig(),
        )  # fmt: skip

    def trained(self, setting: str, steps: int) -> dict[str, Any]:
        """Train in a setting and return its outcome, cached in a file."""
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
    """Compute saturation, gains and alarms of a run as defined in fastrl/evaluate/saturation.py.

    Args:
        lines: lines of metrics.jsonl, one per step.
        curves: {step: accuracy} for test and long, including step 0.
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
    """Return a recipe with a world's paths; callers set the models."""
    return from_dict(yaml.safe_load(to_yaml(load_config(name)).replace("tiny-world/", f"{world}/")))


def load_engine(checkpoint: Path) -> Engine:
    return build_engine(
        CheckpointConfig(path=str(checkpoint), dtype="float32"), EngineConfig(), torch.device("cpu")
    )
