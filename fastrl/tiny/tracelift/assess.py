"""Evaluates a planner of the tiny world with executors and with the exact step checker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from fastrl.config import DataConfig, PromptedConfig, RlConfig
from fastrl.data import load_problems
from fastrl.engine.tree.engine import TorchEngine
from fastrl.methods.tracelift.build import build_executor
from fastrl.methods.tracelift.two_stage import sample_traces, two_stage
from fastrl.runtime.seeding import seed_of
from fastrl.tiny.tracelift.measure import trace_quality
from fastrl.types import SamplingParams

CPU = torch.device("cpu")


def assess_lift(
    planner: Path,
    executors: Mapping[str, Path],
    recipe: RlConfig,
    *,
    num_problems: int = 128,
    num_samples: int = 4,
    seed: int = 0,
) -> dict[str, float]:
    """Sample traces of held-out problems once, and evaluate them with every executor and the step checker.

        two_stage/<executor>, alone/<executor>, uplift/<executor>    with and without traces; their difference
        trace/<name>                                                 trace_quality's metrics

    The first three also have `name/low` and `name/high`, a 95 % interval over problems.

    Args:
        executors: checkpoints by name, prompted and checked with the options in recipe.uplift.executor.
        recipe: gives the problems (eval.path) and the traces' length (rollout); traces use temperature 1.
    """
    if recipe.eval.path is None:
        raise ValueError("[assess_lift] recipe: expected one with eval.path, got none")
    problems = load_problems(DataConfig(path=recipe.eval.path, limit=num_problems))
    engine = TorchEngine.from_pretrained(str(planner), dtype=torch.float32, device=CPU)
    sampling = SamplingParams(max_new_tokens=recipe.rollout.max_new_tokens)
    completions = sample_traces(
        engine, problems, num_samples=num_samples, sampling=sampling, seed=seed_of(seed, "assess_lift")
    )
    expressions = [p.columns["expression"] for p in problems for _ in range(num_samples)]
    texts = [completion.text for own in completions for completion in own]
    task = recipe.uplift.executor.task
    numbers = {f"trace/{name}": value for name, value in trace_quality(expressions, texts, task).items()}
    for name, path in executors.items():
        config = replace(recipe.uplift.executor, model=PromptedConfig(path=str(path)))
        executor = build_executor(config, recipe.engine, CPU)
        try:
            found = two_stage(
                executor, problems, completions, trace_tag=recipe.uplift.trace_tag, seed=seed
            ).metrics
        finally:
            executor.verifier.close()
        ours = {
            "two_stage": f"two_stage_avg@{num_samples}",
            "alone": f"executor_alone_avg@{num_samples}",
            "uplift": "uplift",
        }
        for label, metric in ours.items():
            for end in ("", "/low", "/high"):
                numbers[f"{label}/{name}{end}"] = found[metric + end]
    return numbers
