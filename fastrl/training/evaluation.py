"""Evaluations of the policy during training."""

from __future__ import annotations

from dataclasses import dataclass

from fastrl.config import RlConfig
from fastrl.data.problems import Problem
from fastrl.evaluate.accuracy import evaluate
from fastrl.evaluate.sharing import share
from fastrl.runtime.context import Context
from fastrl.runtime.seeding import seed_of
from fastrl.training.parts import Parts
from fastrl.training.sample import awake
from fastrl.types import Metrics, SamplingParams


def wants(step: int, every: int, last: int) -> bool:
    """Return True after every `every` steps and after the last one."""
    return step == last or (every > 0 and step % every == 0)


def measure(context: Context[RlConfig], parts: Parts, step: int, last: int) -> Metrics:
    """Run the evaluators that are due and return their metrics. A collective: all ranks call it."""
    metrics: Metrics = {}
    for evaluator in parts.evaluators:
        if wants(step, evaluator.every, last):
            metrics |= evaluator(context, parts, step)
    return metrics


def eval_sampling(config: RlConfig) -> SamplingParams:
    """Return the sampling of evaluations: that of rollouts, but temperature, top_p and top_k of eval."""
    return SamplingParams(
        max_new_tokens=config.rollout.max_new_tokens,
        temperature=config.eval.temperature,
        top_p=config.eval.top_p,
        top_k=config.eval.top_k,
        stop=config.rollout.stop,
    )


@dataclass(frozen=True, slots=True)
class AccuracyEvaluator:
    """Evaluator of accuracy on held-out problems (eval/...), which the ranks share."""

    every: int
    problems: list[Problem]

    def __call__(self, context: Context[RlConfig], parts: Parts, step: int) -> Metrics:
        config, ranks = context.config, context.ranks
        with context.run.time("eval"), awake([parts.engine] if config.engine.sleep else [], level=2):
            parts.sync_engine(version=step)
            metrics = evaluate(
                parts.engine, share(self.problems, ranks), parts.grader,
                num_samples=config.eval.num_samples, sampling=eval_sampling(config),
                seed=seed_of(config.run.seed, "eval"), ranks=ranks,
            ).metrics  # fmt: skip
        return {f"eval/{name}": value for name, value in metrics.items()}
