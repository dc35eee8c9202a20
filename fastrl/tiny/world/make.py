"""The tiny world: problems, a generator and two receivers, made once and kept in a cache."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from fastrl.runtime.seeding import seed_of
from fastrl.tiny.world.config import LearnerConfig, WorldConfig
from fastrl.tiny.world.examples import problem_row, write_jsonl
from fastrl.tiny.world.task import Split, draw_chains
from fastrl.tiny.world.teach import teach

__all__ = ["LearnerConfig", "World", "WorldConfig", "build_world", "export_world"]
log = logging.getLogger(__name__)
# What is written in these files decides what a world is, so its cache key holds their text.
SOURCES = (
    "config.py", "examples.py", "models.py", "notation.py", "task.py", "teach.py", "tokenizers.py",
    "traces.py", "make.py", "../../data/conversations.py", "../../stages/sft.py",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class World:
    """Hugging Face checkpoints, and problems as JSONL with prompt, solution and expression."""

    generator: Path
    """Writes explicit steps, leaps and private shorthand, each with slips."""
    receiver: Path
    """Has read right explicit steps only, under another tokenizer."""
    held_out_receiver: Path
    """Another size and other examples than the receiver; for evaluation alone."""
    train: Path
    test: Path


def build_world(config: WorldConfig | None = None, cache: Path | None = None) -> World:
    """The world that a configuration describes: from the cache, or made now.

    Args:
        cache: folder of worlds; None: $FASTRL_CACHE/tiny, or ~/.cache/fastrl/tiny.
    Cost: made once, about a minute on two cores; afterwards nothing but a look into the folder.
    """
    config = config or WorldConfig()
    folder = (cache or default_cache()) / world_key(config)
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        log.info("making the tiny world in %s", folder)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            make(config, partial)
            # Two processes may make the same world: the first to finish is kept.
            if not folder.is_dir():
                partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return World(
        generator=folder / "generator",
        receiver=folder / "receiver",
        held_out_receiver=folder / "held_out_receiver",
        train=folder / "train.jsonl",
        test=folder / "test.jsonl",
    )


def export_world(folder: str | Path, config: WorldConfig | None = None) -> Path:
    """A copy of the world under a path of one's own, as the *-tiny recipes name it. Overwrites nothing."""
    target = Path(folder)
    if target.exists():
        raise ValueError(f"[tiny] dir: expected a folder that does not exist yet, got {str(folder)!r}")
    world = build_world(config)
    shutil.copytree(world.generator.parent, target)
    return target


def default_cache() -> Path:
    root = os.environ.get("FASTRL_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "fastrl") / "tiny"


def world_key(config: WorldConfig) -> str:
    """Digest of the configuration, of the files that give it meaning, and of torch's version."""
    whole = hashlib.sha256(json.dumps(asdict(config), sort_keys=True).encode())
    whole.update(torch.__version__.encode())
    for source in SOURCES:
        whole.update((Path(__file__).parent / source).read_bytes())
    return whole.hexdigest()[:16]


def make(config: WorldConfig, folder: Path) -> None:
    """Write every part of the world into a folder."""
    splits: tuple[tuple[Split, int], ...] = (("train", config.num_train), ("test", config.num_test))
    for split, count in splits:
        chains = draw_chains(config.chains, count, seed=seed_of(config.seed, "problems"), split=split)
        write_jsonl(folder / f"{split}.jsonl", map(problem_row, chains))
    teach(config, folder)
