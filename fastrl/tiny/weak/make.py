"""The tiny world of weak supervision: generators from faithful to unfaithful, made once and kept."""

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

# The text of these files decides what this world is, next to the plain world's own.
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
        """Taught by the configuration's mix of styles."""
        return self.folder / "generator"

    @property
    def base(self) -> Path:
        """The same architecture, taught nothing."""
        return self.folder / "weak-base"

    def file(self, name: str) -> Path:
        """train, test; long: harder problems; text: raw text; traces: worked problems with their thoughts."""
        return self.folder / f"weak-{name}.jsonl"


def build_weak_world(config: WeakConfig | None = None, cache: Path | None = None) -> WeakWorld:
    """Return the world that a configuration describes, from the cache or made now.

    Args:
        cache: folder of worlds; None: $FASTRL_CACHE/tiny, or ~/.cache/fastrl/tiny.
    Cost: made once, about a minute and a half of one core for the explicit mix, half of it for each other;
        worlds of the same seed differ in the generator.
    """
    config = config or WeakConfig()
    folder = (cache or default_cache()) / f"weak-{weak_key(config)}"
    make_once(folder, lambda partial: make_weak(config, partial, cache))
    return WeakWorld(folder)


def copy_weak_world(target: Path, config: WeakConfig | None = None, cache: Path | None = None) -> None:
    """Add the world's files to a folder, and a generator of every mix as weak-<mix>."""
    first = config or WeakConfig()
    build_weak_world(replace(first, mix=FIRST), cache)  # which all others begin with
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
        cache: where the explicit generator is, or is made, that other mixes begin with.
    Raises:
        RuntimeError: the training failed; ends with what it said.
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
    taught = draw_chains(world.chains, config.num_traces, seed=seed_of(seed, "traces"), split="train")
    write_jsonl(made.file("traces"), map(thought_row, taught))
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
    """Another start than random weights, in the recipe of a model's training."""
    sft = load_config(str(recipe))
    recipe.write_text(to_yaml(with_option(sft, "model.path", str(checkpoint))))
