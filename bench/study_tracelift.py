"""TraceLift in the tiny world: the full reward against its parts, per seed.

    python -m bench.study_tracelift --seeds 0 1 2 --steps 60 --out bench/results/tracelift_study.json

Each seed makes its own world (problems, planner, executors), builds groups and trains a reward model once. It
then trains the same planner with each form of the reward: quality x uplift as in the paper, execution only,
quality only, uplift only, and half their sum. Stopped runs are resumed. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from fastrl.runtime.run import environment
from fastrl.tiny.reproduce.tracelift import FORMS, TraceliftStudy
from fastrl.tiny.tracelift.config import LiftConfig
from fastrl.tiny.world.config import WorldConfig

SHOWN = (
    "two_stage/executor", "two_stage/held_out_executor", "alone/executor", "alone/held_out_executor",
    "trace/accuracy", "trace/step_accuracy", "trace/faithful", "trace/legible", "trace/rubric",
    "trace/style/explicit", "trace/style/leap", "trace/style/private", "trace/leak",
)  # fmt: skip


def table(seeds: list[dict[str, Any]], arms: list[str]) -> str:
    """Format the mean and each seed's number, one row per metric and one column per arm."""
    rows = [["", *arms]]
    for name in SHOWN:
        values = [[seed[arm][name] for seed in seeds] for arm in arms]
        rows.append(
            [name] + [f"{statistics.mean(v):.3f} ({' '.join(f'{x:.2f}' for x in v)})" for v in values]
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def judge_table(seeds: list[dict[str, Any]]) -> str:
    """Format the reward models' pair and group accuracy on held-out groups, in total and by kind."""
    metrics = [seed["reward_model"]["metrics"] for seed in seeds]
    kinds = sorted(
        {name.partition("/")[2] for own in metrics for name in own if name.startswith("pair_accuracy/")}
    )
    lines = []
    for label, end in (("all", ""), *((kind, f"/{kind}") for kind in kinds)):
        pairs, groups = (
            [own[f"{name}_accuracy{end}"] for own in metrics if f"{name}_accuracy{end}" in own]
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
        config = LiftConfig(world=WorldConfig(seed=seed))
        seeds.append(
            TraceliftStudy(options.task, seed, options.steps, 256, folder, config).run(options.forms)
        )
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
