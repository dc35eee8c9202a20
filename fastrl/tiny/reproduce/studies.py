"""Runs one study of one paper's claims with one seed, in its own process:

python -m fastrl.tiny.reproduce.studies STUDY SEED DIR

It trains through fastrl's usual entry, writes numbers.json to DIR/STUDY/seed-SEED, and resumes if stopped.
"""

from __future__ import annotations

import logging
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from fastrl.runtime.errors import exit_code
from fastrl.tiny.interventions.config import IntConfig, solver_world
from fastrl.tiny.reproduce import interventions, rltr, tracelift, weak
from fastrl.tiny.reproduce.options import Sizes, read_sizes
from fastrl.tiny.tracelift.config import LessonConfig, LiftConfig
from fastrl.tiny.weak.config import WeakConfig, weak_world
from fastrl.tiny.world.config import WorldConfig
from fastrl.training.progress import write_json

NOISE = ("noise=0", "noise=0.3")


def run_rltr(seed: int, sizes: Sizes, folder: Path) -> dict[str, Any]:
    world = shortened(WorldConfig(seed=seed), sizes)
    return rltr.RltrStudy(seed, sizes.steps, sizes.problems, sizes.samples, folder, world).run()


def run_tracelift(seed: int, sizes: Sizes, folder: Path) -> dict[str, Any]:
    world = LiftConfig(world=shortened(WorldConfig(seed=seed), sizes))
    if sizes.teach is not None:
        lesson = LessonConfig(num_steps=sizes.teach)
        world = replace(world, planner=lesson, executor=lesson, held_out_executor=lesson)
    study = tracelift.TraceliftStudy("math", seed, sizes.steps, sizes.problems, folder, world)
    return study.run(["product", "execution"])


def run_int(seed: int, sizes: Sizes, folder: Path) -> dict[str, Any]:
    world = IntConfig(world=shortened(replace(solver_world(), seed=seed), sizes))
    study = interventions.InterventionStudy(seed, sizes.steps, sizes.problems, sizes.samples, folder, world)
    return study.run(["int", "rl", "reference"], [])


def run_weak(seed: int, sizes: Sizes, folder: Path) -> dict[str, Any]:
    """Train a faithful generator in four settings, an unfaithful one on 8 problems with and without SFT."""
    world = WeakConfig(world=shortened(replace(weak_world(), seed=seed), sizes))
    if sizes.teach is not None:
        world = replace(world, mix_steps=sizes.teach)
    steps = sizes.steps
    explicit = weak.WeakStudy("explicit", seed, steps, steps, sizes.problems, folder, world, probed=False)
    guessed = replace(explicit, mix="guessed")
    return {
        "explicit": {"before": explicit.before()}
        | {setting: explicit.trained(setting, steps) for setting in ("scarce", *NOISE)}
        | {"selfcertainty": explicit.trained("selfcertainty", 2 * steps)},
        "guessed": {"scarce": guessed.trained("scarce", steps)},
        "rescued": {"scarce": replace(guessed, rescued=True).trained("scarce", steps)},
    }


def shortened(world: WorldConfig, sizes: Sizes) -> WorldConfig:
    """Return the world with sizes.teach SFT steps per model."""
    if sizes.teach is None:
        return world
    shorter: dict[str, Any] = {
        name: replace(getattr(world, name), num_steps=sizes.teach)
        for name in ("generator", "receiver", "held_out_receiver")
    }
    return replace(world, **shorter)


STUDIES: dict[str, Callable[[int, Sizes, Path], dict[str, Any]]] = {
    "rltr": run_rltr,
    "tracelift": run_tracelift,
    "int": run_int,
    "weak": run_weak,
}


def run_study(name: str, seed: int, root: Path) -> Path:
    """Run a study with a seed and write numbers.json: results, and this process's seconds (without those of
    stopped attempts)."""
    folder = root / name / f"seed-{seed}"
    start = time.perf_counter()
    found = STUDIES[name](seed, read_sizes(root), folder)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    found["seconds"] = {
        "wall": time.perf_counter() - start,
        "cpu": sum(usage.ru_utime + usage.ru_stime for usage in used),
    }
    write_json(folder / "numbers.json", found)
    return folder / "numbers.json"


def main(arguments: Sequence[str]) -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    disable_progress_bar()  # type: ignore[no-untyped-call]
    # one thread: the same bits on any number of cores, and parallel studies don't compete for cores
    torch.set_num_threads(1)
    name, seed, root = arguments

    def run() -> int:
        print(run_study(name, int(seed), Path(root)))
        return 0

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
