"""TraceLift's tiny world: problems of two tasks, a planner, two executors; made once and kept."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from fastrl.runtime.seeding import seed_of
from fastrl.tiny.tracelift.config import LiftConfig
from fastrl.tiny.tracelift.examples import seed_row
from fastrl.tiny.tracelift.task import task_row
from fastrl.tiny.tracelift.teach import teach_lift
from fastrl.tiny.world.examples import write_jsonl
from fastrl.tiny.world.make import World, build_world, default_cache, world_key
from fastrl.tiny.world.task import Split, draw_chains
from fastrl.types import Task

log = logging.getLogger(__name__)
# What is written in these files decides what this world is, beside the plain world's own.
SOURCES = (
    "../world/check.py", "config.py", "examples.py", "judge.py", "make.py", "perturb.py", "task.py",
    "teach.py", "../../methods/tracelift/groups/drafts.py",
)  # fmt: skip
TASKS: tuple[Task, ...] = ("math", "code")


@dataclass(frozen=True, slots=True)
class LiftWorld:
    """A folder of Hugging Face checkpoints and JSONL files, beside the plain world it comes from."""

    folder: Path
    base: World

    @property
    def planner(self) -> Path:
        """Writes a trace for a problem of either task, and no answer; in the generator's three styles."""
        return self.folder / "planner"

    @property
    def executor(self) -> Path:
        """Reads a problem and a trace, and writes the answer alone; has never seen private shorthand."""
        return self.folder / "executor"

    @property
    def held_out_executor(self) -> Path:
        """Another size and other examples than the executor; for evaluation alone."""
        return self.folder / "held_out_executor"

    def problems(self, task: Task, split: Split) -> Path:
        return self.folder / f"{task}-{split}.jsonl"

    def seeds(self, task: Task) -> Path:
        """Problems with a right trace and flawed ones, all judged."""
        return self.folder / f"{task}-seeds.jsonl"


def build_lift_world(config: LiftConfig | None = None, cache: Path | None = None) -> LiftWorld:
    """The world that a configuration describes: from the cache, or made now, the plain one first.

    Args:
        cache: folder of worlds; None: $FASTRL_CACHE/tiny, or ~/.cache/fastrl/tiny.
    """
    config = config or LiftConfig()
    base = build_world(config.world, cache)
    folder = (cache or default_cache()) / f"lift-{lift_key(config)}"
    if not folder.is_dir():
        log.info("making TraceLift's tiny world in %s", folder)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            make_lift(config, base, partial)
            # Two processes may make the same world: the first to finish is kept.
            if not folder.is_dir():
                partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return LiftWorld(folder, base)


def export_lift_world(folder: str | Path, config: LiftConfig | None = None) -> Path:
    """A copy of both worlds under one path of one's own, as the tracelift-*-tiny recipes name it.

    Raises:
        ValueError: the folder exists; nothing is overwritten.
    """
    target = Path(folder)
    if target.exists():
        raise ValueError(f"[tiny] dir: expected a folder that does not exist yet, got {str(folder)!r}")
    world = build_lift_world(config)
    shutil.copytree(world.base.generator.parent, target)
    shutil.copytree(world.folder, target, dirs_exist_ok=True)
    return target


def lift_key(config: LiftConfig) -> str:
    """Digest of the plain world's key, of this configuration and of the files that give it meaning."""
    whole = hashlib.sha256(world_key(config.world).encode())
    whole.update(json.dumps(asdict(config), sort_keys=True).encode())
    for source in SOURCES:
        whole.update((Path(__file__).parent / source).read_bytes())
    return whole.hexdigest()[:16]


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
