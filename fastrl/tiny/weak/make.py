"""The tiny world of weak supervision: generators from faithful to unfaithful, made once and cached."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from fastrl.config import with_option
from fastrl.config.load import load_config, to_yaml
from fastrl.runtime.seeding import seed_of
from fastrl.tiny.folders import default_cache, digest, make_once
from fastrl.tiny.weak.config import MIXES, WeakConfig
from fastrl.tiny.weak.examples import text_row, thought_row, weak_row
from fastrl.tiny.world.examples import problem_row, write_jsonl
from fastrl.tiny.world.make import world_key
from fastrl.tiny.world.models import initialise
from fastrl.tiny.world.task import draw_chains
from fastrl.tiny.world.teach import learn, prepare

# source files in this world's key, in addition to the plain world's
SOURCES = (
    "tiny/interventions/examples.py",
    *(f"tiny/weak/{name}.py" for name in ("config", "examples", "make")),
)
FIRST = "explicit"
FILES = ("train", "test", "long", "text", "traces")


@dataclass(frozen=True, slots=True)
class WeakWorld:
    """A folder with Hugging Face checkpoints, problems (prompt, solution, expression), text and traces."""

    folder: Path

    @property
    def generator(self) -> Path:
        """The generator of the configuration's mix."""
        return self.folder / "generator"

    @property
    def base(self) -> Path:
        """The same architecture with random weights."""
        return self.folder / "weak-base"

    def file(self, name: str) -> Path:
        """Return a file: train, test, long (harder problems), text (raw text), traces (worked problems)."""
        return self.folder / f"weak-{name}.jsonl"


def build_weak_world(config: WeakConfig | None = None, cache: Path | None = None) -> WeakWorld:
    """Return the world of a configuration, from the cache or newly made.

    Args:
        cache: folder of worlds; None: $FASTRL_CACHE/tiny, or ~/.cache/fastrl/tiny.
    Cost: once about 90 s of one core for the explicit mix, half of that for each other mix; worlds of the
        same seed differ only in the generator.
    """
    config = config or WeakConfig()
    folder = (cache or default_cache()) / f"weak-{weak_key(config)}"
    make_once(folder, lambda partial: make_weak(config, partial, cache))
    return WeakWorld(folder)


def copy_weak_world(target: Path, config: WeakConfig | None = None, cache: Path | None = None) -> None:
    """Copy the world's files to a folder, and the generator of every mix as weak-<mix>."""
    first = config or WeakConfig()
    build_weak_world(replace(first, mix=FIRST), cache)  # all other mixes start from it
    with ThreadPoolExecutor(max_workers=2) as lanes:
        worlds = list(lanes.map(lambda mix: build_weak_world(replace(first, mix=mix), cache), MIXES))
    for mix, world in zip(MIXES, worlds, strict=True):
        shutil.copytree(world.generator, target / f"weak-{mix}")
    shutil.copytree(worlds[0].base, target / "weak-base")
    for name in FILES:
        shutil.copy2(worlds[0].file(name), target)


def weak_key(config: WeakConfig) -> str:
    """Return the key of the world of a configuration."""
    return digest(world_key(config.world), config, SOURCES)


def make_weak(config: WeakConfig, folder: Path, cache: Path | None) -> None:
    """Write every part of the world into a folder.

    Args:
        cache: folder of worlds, for the explicit generator from which other mixes start.
    Raises:
        RuntimeError: the training failed; the message ends with its output.
    """
    world, made = config.world, WeakWorld(folder)
    seed = seed_of(world.seed, "weak")
    chains = {
        "train": draw_chains(config.problems, world.num_train, seed=seed, split="train"),
        "test": draw_chains(config.problems, world.num_test, seed=seed, split="test"),
        "long": draw_chains(config.long, world.num_test, seed=seed, split="test"),
    }
    for name, drawn in chains.items():
        write_jsonl(made.file(name), map(problem_row, drawn))
    worked = draw_chains(world.chains, config.num_traces, seed=seed_of(seed, "traces"), split="train")
    write_jsonl(made.file("traces"), map(thought_row, worked))
    random = Random(seed_of(seed, "text"))
    write_jsonl(made.file("text"), (text_row(config, random) for _ in range(config.num_texts)))
    initialise(world.generator.shape, made.base, seed=seed_of(seed, "base"))
    learner = world.generator
    if config.mix != FIRST:
        learner = replace(learner, num_steps=config.mix_steps, learning_rate=config.mix_learning_rate)
    recipe = prepare(
        world,
        learner,
        lambda _, chain, random: weak_row(config, chain, random),
        folder / ".generator",
        f"weak/{config.mix}",
    )
    if config.mix != FIRST:
        begin_with(build_weak_world(replace(config, mix=FIRST), cache).generator, recipe)
    learn(recipe, made.generator)


def begin_with(checkpoint: Path, recipe: Path) -> None:
    """Set the initial checkpoint in the recipe of a model's training."""
    sft = load_config(str(recipe))
    recipe.write_text(to_yaml(with_option(sft, "model.path", str(checkpoint))))
