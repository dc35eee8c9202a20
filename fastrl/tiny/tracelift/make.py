"""TraceLift's tiny world: problems of two tasks, a planner, two executors; made once and cached."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

from fastrl.data.splits import Split
from fastrl.runtime.seeding import seed_of
from fastrl.tiny.folders import default_cache, digest, make_once
from fastrl.tiny.tracelift.config import LiftConfig
from fastrl.tiny.tracelift.examples import seed_row
from fastrl.tiny.tracelift.task import task_row
from fastrl.tiny.tracelift.teach import teach_lift
from fastrl.tiny.world.examples import write_jsonl
from fastrl.tiny.world.make import World, build_world, world_key
from fastrl.tiny.world.task import draw_chains
from fastrl.types import Task

# source files in this world's key, in addition to the plain world's
SOURCES = (
    "tiny/world/check.py",
    *(
        f"tiny/tracelift/{name}.py"
        for name in ("config", "examples", "judge", "make", "perturb", "task", "teach")
    ),
    "methods/tracelift/groups/drafts.py",
)
TASKS: tuple[Task, ...] = ("math", "code")


@dataclass(frozen=True, slots=True)
class LiftWorld:
    """A folder of Hugging Face checkpoints and JSONL files, and the plain world it comes from."""

    folder: Path
    base: World

    @property
    def planner(self) -> Path:
        """A planner that writes traces without answers for either task, in the generator's three styles."""
        return self.folder / "planner"

    @property
    def executor(self) -> Path:
        """An executor that reads a problem and a trace, but not private style, and writes only the answer."""
        return self.folder / "executor"

    @property
    def held_out_executor(self) -> Path:
        """An executor of another size, trained on other examples; only for evaluation."""
        return self.folder / "held_out_executor"

    def problems(self, task: Task, split: Split) -> Path:
        return self.folder / f"{task}-{split}.jsonl"

    def seeds(self, task: Task) -> Path:
        """Return the file of problems with a right trace and flawed ones, all judged."""
        return self.folder / f"{task}-seeds.jsonl"


def build_lift_world(config: LiftConfig | None = None, cache: Path | None = None) -> LiftWorld:
    """Return the world of a configuration, from the cache or newly made, with its plain world.

    Args:
        cache: folder of worlds; None: $FASTRL_CACHE/tiny, or ~/.cache/fastrl/tiny.
    """
    config = config or LiftConfig()
    base = build_world(config.world, cache)
    folder = (cache or default_cache()) / f"lift-{lift_key(config)}"
    make_once(folder, partial(make_lift, config, base))
    return LiftWorld(folder, base)


def copy_lift_world(target: Path, config: LiftConfig | None = None, cache: Path | None = None) -> None:
    """Copy this world's models and files to a folder, with the names of the tracelift-*-tiny recipes."""
    shutil.copytree(build_lift_world(config, cache).folder, target, dirs_exist_ok=True)


def lift_key(config: LiftConfig) -> str:
    """Return the key of the world of a configuration."""
    return digest(world_key(config.world), config, SOURCES)


def make_lift(config: LiftConfig, base: World, folder: Path) -> None:
    """Write every part of the world into a folder."""
    plain = config.world
    splits: tuple[tuple[Split, int], ...] = (("train", plain.num_train), ("test", plain.num_test))
    for task in TASKS:
        for split, count in splits:
            chains = draw_chains(plain.chains, count, seed=seed_of(plain.seed, "problems"), split=split)
            rows = (task_row(task, chain, config.num_tests, plain.seed) for chain in chains)
            write_jsonl(folder / f"{task}-{split}.jsonl", rows)
        seed = seed_of(plain.seed, "lift", "seeds", task)
        random = Random(seed)
        chains = draw_chains(plain.chains, config.num_seeds, seed=seed, split="train")
        write_jsonl(
            folder / f"{task}-seeds.jsonl", (seed_row(config, task, chain, random) for chain in chains)
        )
    teach_lift(config, base, folder)
