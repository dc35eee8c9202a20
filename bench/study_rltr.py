"""RLVR against RLTR in the tiny world: accuracy, majority vote, transfer and notation, seed by seed.

    python -m bench.study_rltr --seeds 0 1 2 --steps 60 --out bench/results/rltr_study.json

Every seed makes a world of its own (models and problems) and trains its generator twice from the same start.
A run that was stopped goes on. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path

from fastrl.config import EvalConfig, ModelConfig, RewardConfig
from fastrl.run import environment, read_metrics
from fastrl.tiny.assess import assess
from fastrl.tiny.config import WorldConfig
from fastrl.tiny.demo import DemoOptions, demo_config, rl_recipe
from fastrl.tiny.world import World, build_world
from fastrl.train import run_stage

ARMS = {"rlvr": ("answer", "format"), "rltr": ("answer", "format", "transfer")}
WEIGHTS = {"answer": 1.0, "format": 0.1, "transfer": 1.0}
SHOWN = (
    "avg@16", "maj@16", "transfer/receiver", "transfer/held_out_receiver", "transfer/receiver/stripped",
    "transfer/held_out_receiver/stripped", "style/explicit", "style/private", "style/leap", "step_accuracy",
)  # fmt: skip


def train_arm(world: World, arm: str, seed: int, steps: int, folder: Path) -> Path:
    """The recipe rltr-tiny with the arm's rewards; everything else is the same."""
    names = ARMS[arm]
    options = DemoOptions(dir=str(folder / f"{arm}-{seed}"), steps=steps, seed=seed)
    config = demo_config(rl_recipe("rltr-tiny"), world, options)
    rewards = RewardConfig(functions=names, weights=tuple(WEIGHTS[name] for name in names))
    if arm == "rlvr":
        config = replace(config, transfer=replace(config.transfer, receiver=ModelConfig()))
    return run_stage(replace(config, reward=rewards, eval=EvalConfig()))


def steps_to(run: Path, accuracy: float) -> int | None:
    """First step whose training accuracy, averaged over five steps, is at least `accuracy`."""
    values = training_accuracy(run)
    reached = (i + 1 for i in range(4, len(values)) if statistics.mean(values[i - 4 : i + 1]) >= accuracy)
    return next(reached, None)


def training_accuracy(run: Path) -> list[float]:
    return [line["rewards/answer/mean"] for line in read_metrics(run / "metrics.jsonl") if line["step"] > 0]


def study_seed(seed: int, steps: int, folder: Path) -> dict[str, object]:
    world = build_world(WorldConfig(seed=seed))
    results: dict[str, object] = {
        "seed": seed,
        "before": assess(world.generator, world, num_samples=16, stripped=True, seed=seed),
    }
    for arm in ARMS:
        final = train_arm(world, arm, seed, steps, folder)
        results[arm] = assess(final, world, num_samples=16, stripped=True, seed=seed)
    target = statistics.mean(training_accuracy(folder / f"rlvr-{seed}")[-5:])
    results["rlvr_final_training_accuracy"] = target
    results["steps_to_it"] = {arm: steps_to(folder / f"{arm}-{seed}", target) for arm in ARMS}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--runs", type=Path, default=Path("runs/study"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    seeds = [study_seed(seed, options.steps, options.runs) for seed in options.seeds]
    for name in SHOWN:
        row = {arm: [result[arm][name] for result in seeds] for arm in ("before", *ARMS)}  # type: ignore[index]
        cells = [
            f"{arm} {statistics.mean(v):.3f} ({' '.join(f'{x:.2f}' for x in v)})" for arm, v in row.items()
        ]
        print(f"{name:36s} " + "   ".join(cells))
    print("steps to RLVR's final training accuracy:", [result["steps_to_it"] for result in seeds])
    report = {"bench": "study_rltr", "steps": options.steps, "results": seeds, "environment": environment()}
    if options.out:
        options.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
