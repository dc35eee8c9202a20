"""Measures faithfulness and diversity of the policy during training."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastrl.config import RlConfig
from fastrl.engine.build import choose_device
from fastrl.methods.weak.build import build_judges
from fastrl.methods.weak.judge import Judge
from fastrl.methods.weak.labelled import measure
from fastrl.methods.weak.probes import Probes, probe
from fastrl.runtime.context import Context
from fastrl.runtime.seeding import seed_of
from fastrl.training.evaluation import eval_sampling
from fastrl.training.parts import Parts
from fastrl.training.sample import awake, join_sync
from fastrl.types import Metrics


@dataclass(slots=True)
class FaithfulnessEvaluator:
    """Computes faithfulness/... and diversity/... on the first rank and writes the labelled responses to the
    run folder's faithfulness/step-000010.jsonl. `fastrl eval` with the run's seed gives the same values."""

    every: int
    probes: Probes
    judges: dict[str, Judge] = field(default_factory=dict)
    """Judges of eval.faithfulness; loaded at their first use, while the policy's engine sleeps."""

    def __call__(self, context: Context[RlConfig], parts: Parts, step: int) -> Metrics:
        config, run = context.config, context.run
        if not context.ranks.first:
            join_sync(parts, config, step)
            return {}
        own, seed = config.eval.faithfulness, seed_of(config.run.seed, "faithfulness")
        with run.time("faithfulness"):
            with awake([parts.engine] if config.engine.sleep else [], level=2):
                parts.sync_engine(version=step)
                probed = probe(
                    parts.engine, self.probes, parts.grader, sampling=eval_sampling(config), seed=seed
                )
            self.judges = self.judges or build_judges(own, choose_device(config.run), seed)
            sleeping = [self.judges[name].engine for name, judge in own.judges.items() if judge.engine.sleep]
            with awake(sleeping):
                measured = measure(probed, self.probes, self.judges)
        if run.writes:
            measured.write(run.folder / "faithfulness" / f"step-{step:06d}.jsonl")
        return measured.metrics
