"""The tiny world: problems, a generator and two receivers, made once and cached."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from fastrl.data.splits import Split
from fastrl.runtime.seeding import seed_of
from fastrl.tiny.folders import default_cache, digest, make_once
from fastrl.tiny.world.config import LearnerConfig, WorldConfig
from fastrl.tiny.world.examples import problem_row, write_jsonl
from fastrl.tiny.world.task import draw_chains
from fastrl.tiny.world.teach import teach

__all__ = ["LearnerConfig", "World", "WorldConfig", "build_world"]
# source files that determine a world; their text is part of its key
SOURCES = (
    *(
        f"tiny/world/{name}.py"
        for name in (
            "config", "examples", "models", "notation", "task", "teach", "tokenizers", "traces", "make",
        )
    ),
    "data/conversations.py",
    "data/splits.py",
    "stages/sft.py",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class World:
    """Hugging Face checkpoints, and JSONL problems with prompt, solution and expression."""

    generator: Path
    """Writes explicit steps, leaps and private shorthand, each with slips."""
    receiver: Path
    """Trained only on right explicit steps, with another tokenizer."""
    held_out_receiver: Path
    """A receiver of another size, trained on other examples; only for evaluation."""
    train: Path
    test: Path


def build_world(config: WorldConfig | None = None, cache: Path | None = None) -> World:
    """Return the world of a configuration, from the cache or newly made.

    Args:
        cache: folder of worlds; None: $FASTRL_CACHE/tiny, or ~/.cache/fastrl/tiny.
    Cost: once about a minute on two cores.
    """
    config = config or WorldConfig()
    folder = make_once((cache or default_cache()) / world_key(config), partial(make_world, config))
    return World(
        generator=folder / "generator",
        receiver=folder / "receiver",
        held_out_receiver=folder / "held_out_receiver",
        train=folder / "train.jsonl",
        test=folder / "test.jsonl",
    )


def copy_world(target: Path, config: WorldConfig | None = None, cache: Path | None = None) -> None:
    """Copy the world's models and files to a folder."""
    shutil.copytree(build_world(config, cache).generator.parent, target, dirs_exist_ok=True)


def world_key(config: WorldConfig) -> str:
    """Return the key of a configuration's world, which includes the version of torch."""
    return digest(torch.__version__, config, SOURCES)


def make_world(config: WorldConfig, folder: Path) -> None:
    """Write every part of the world into a folder."""
    splits: tuple[tuple[Split, int], ...] = (("train", config.num_train), ("test", config.num_test))
    for split, count in splits:
        chains = draw_chains(config.chains, count, seed=seed_of(config.seed, "problems"), split=split)
        write_jsonl(folder / f"{split}.jsonl", map(problem_row, chains))
    teach(config, folder)
