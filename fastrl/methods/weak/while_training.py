"""Faithfulness and diversity of the policy while it is trained."""

from __future__ import annotations

from fastrl.config import RlConfig
from fastrl.methods.weak.labelled import measure
from fastrl.methods.weak.probes import probe
from fastrl.runtime.distributed import Ranks
from fastrl.runtime.run import Run
from fastrl.runtime.seeding import seed_of
from fastrl.stages.build import RlParts, build_judges, choose_device
from fastrl.training.metrics import Metrics
from fastrl.training.sample import awake, join_sync
from fastrl.types import SamplingParams


def faithfulness(parts: RlParts, config: RlConfig, run: Run, ranks: Ranks, step: int) -> Metrics:
    """faithfulness/... and diversity/... of the current weights, by the first rank; every response and what
    is known of it in the run folder's faithfulness/step-000010.jsonl. Empty where it is not asked for.

    `fastrl eval` finds the same with the run's seed. Judges are loaded at their first use, when the policy's
    engine sleeps if it may.
    """
    if parts.probes is None:
        return {}
    if not ranks.first:
        join_sync(parts, config, step)
        return {}
    own, seed = config.eval.faithfulness, seed_of(config.run.seed, "faithfulness")
    sampling = SamplingParams(
        max_new_tokens=config.rollout.max_new_tokens,
        temperature=config.eval.temperature,
        top_p=config.eval.top_p,
        stop=config.rollout.stop,
    )
    with run.time("faithfulness"):
        with awake([parts.engine] if config.engine.sleep else [], level=2):
            parts.sync_engine(version=step)
            probed = probe(parts.engine, parts.probes, parts.grader, sampling=sampling, seed=seed)
        parts.judges = parts.judges or build_judges(own, choose_device(config.run), seed)
        sleeping = [parts.judges[name].engine for name, judge in own.judges.items() if judge.engine.sleep]
        with awake(sleeping):
            measured = measure(probed, parts.probes, parts.judges)
    if run.writes:
        measured.write(run.folder / "faithfulness" / f"step-{step:06d}.jsonl")
    return measured.metrics
