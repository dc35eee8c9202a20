"""Measures the accuracy of planner + executor, and of the executor without traces, during training."""

from __future__ import annotations

from dataclasses import dataclass

from fastrl.config import RlConfig
from fastrl.config.engines import engine_table
from fastrl.data.problems import Problem
from fastrl.evaluate.sharing import share
from fastrl.methods.tracelift.executor import Executor
from fastrl.methods.tracelift.two_stage import sample_traces, two_stage
from fastrl.runtime.context import Context
from fastrl.runtime.seeding import seed_of
from fastrl.training.evaluation import eval_sampling
from fastrl.training.parts import Parts
from fastrl.training.sample import awake
from fastrl.types import Metrics


@dataclass(frozen=True, slots=True)
class TwoStageEvaluator:
    """Computes eval/two_stage_avg@n, eval/executor_alone_avg@n and the other metrics of `two_stage`; ranks
    share the problems."""

    every: int
    problems: list[Problem]
    executor: Executor

    def __call__(self, context: Context[RlConfig], parts: Parts, step: int) -> Metrics:
        config, ranks = context.config, context.ranks
        problems, seed = share(self.problems, ranks), seed_of(config.run.seed, "eval")
        executor_sleeps = engine_table(config)["executor"].engine.sleep
        with context.run.time("eval"):
            with awake([parts.engine] if config.engine.sleep else [], level=2):
                parts.sync_engine(version=step)
                traces = sample_traces(
                    parts.engine, problems, num_samples=config.eval.num_samples,
                    sampling=eval_sampling(config), seed=seed,
                )  # fmt: skip
            with awake([self.executor.engine] if executor_sleeps else []):
                metrics = two_stage(
                    self.executor, problems, traces,
                    trace_tag=config.uplift.trace_tag, seed=seed, ranks=ranks,
                ).metrics  # fmt: skip
        return {f"eval/{name}": value for name, value in metrics.items()}
