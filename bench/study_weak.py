"""Weak supervision in the tiny world: does faithfulness or diversity before RL predict generalisation?

    python -m bench.study_weak --seeds 1 2 3 --steps 30 --out bench/results/weak_study.json

Six generators, pretrained on more or less faithful traces (fastrl/tiny/weak/config.py; each seed has its own
problems), are trained in three settings, the recipes weak-{scarce,noise,majority}-tiny: 8 problems; 7 of 10
labels wrong; a majority vote. Before RL, the study measures on problems that the generator sometimes solves:
the exact step checker's labels, probes without a judge, and diversity of strategies, overall and of faithful
responses. After RL: when the training reward saturates (its tail is a tenth of the steps), gains on held-out
and on longer problems, and alarms against the hidden gold reward. One generator also trains on
self-certainty, for twice as many steps. A mix fails a setting if its final accuracy (mean over seeds) is more
than --margin below the best mix's. It then gets SFT on explicit traces, with as many slips as its pretraining
had, and trains again.

Stopped runs are resumed. Curves and scatter are written as PNG next to --out. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.study_weak_report import correlations, curves_png, failed, final, report_text, scatter_png
from fastrl.runtime.run import environment, write_atomic
from fastrl.tiny.reproduce.weak import WeakStudy
from fastrl.tiny.weak.config import MIXES, WeakConfig, weak_world

SETTINGS = ("scarce", "noise", "majority")


def print_run(run: dict[str, Any]) -> dict[str, Any]:
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
    parser.add_argument(
        "--certain", choices=MIXES, default="mixed", help="mix that also trains on self-certainty"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=30, help="RL steps; self-certainty takes twice as many")
    parser.add_argument("--every", type=int, default=6, help="steps between evaluations")
    parser.add_argument("--problems", type=int, default=40, help="problems per evaluation")
    parser.add_argument(
        "--margin", type=float, default=0.15, help="a mix fails if it is so far below the best one"
    )
    parser.add_argument(
        "--teach", type=int, help="pretraining steps of the generators (default: the world's)"
    )
    parser.add_argument("--cache", type=Path, help="folder of worlds (default: as fastrl tiny)")
    parser.add_argument("--runs", type=Path, default=Path("runs/study-weak"))
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main() -> None:
    options = parsed()
    world = weak_world()
    if options.teach:
        world = replace(world, generator=replace(world.generator, num_steps=options.teach))
    studies = [
        WeakStudy(
            mix, seed, options.steps, options.every, options.problems, options.runs,
            WeakConfig(world=replace(world, seed=seed)), cache=options.cache,
        )
        for mix in options.mixes
        for seed in options.seeds
    ]  # fmt: skip
    runs = [
        print_run(study.trained(setting, study.steps)) for setting in options.settings for study in studies
    ]
    certain = [
        print_run(study.trained("selfcertainty", 2 * study.steps))
        for study in studies
        if study.mix == options.certain
    ]
    rescued = [
        print_run(replace(study, rescued=True).trained(setting, study.steps))
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
