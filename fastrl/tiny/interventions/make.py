"""InT's tiny world: problems with references, and a solver that can check attempts; made once and cached."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fastrl.data.splits import Split
from fastrl.runtime.seeding import seed_of
from fastrl.tiny.folders import default_cache, digest, make_once
from fastrl.tiny.interventions.config import IntConfig
from fastrl.tiny.interventions.examples import hard_row, meets, solver_row
from fastrl.tiny.world.examples import write_jsonl
from fastrl.tiny.world.make import world_key
from fastrl.tiny.world.task import Chain, draw_chains
from fastrl.tiny.world.teach import learn, prepare
from fastrl.tiny.world.traces import wrong_entries

# source files in this world's key, in addition to the plain world's
SOURCES = tuple(f"tiny/interventions/{name}.py" for name in ("config", "examples", "make"))


@dataclass(frozen=True, slots=True)
class IntWorld:
    """A folder with a Hugging Face checkpoint and problems as JSONL, with prompt, solution, reference and
    expression."""

    folder: Path

    @property
    def solver(self) -> Path:
        """A solver that gets some operations always wrong, and can check attempts or follow a reference.

        Its checks are 75 % correct.
        """
        return self.folder / "solver"

    @property
    def train(self) -> Path:
        """Training problems, each with one of these operations."""
        return self.folder / "int-train.jsonl"

    @property
    def test(self) -> Path:
        """Held-out problems, each with one of these operations."""
        return self.folder / "int-test.jsonl"


def build_int_world(config: IntConfig | None = None, cache: Path | None = None) -> IntWorld:
    """Return the world of a configuration, from the cache or newly made.

    Args:
        cache: folder of worlds; None: $FASTRL_CACHE/tiny, or ~/.cache/fastrl/tiny.
    """
    config = config or IntConfig()
    folder = (cache or default_cache()) / f"int-{int_key(config)}"
    make_once(folder, partial(make_int, config))
    return IntWorld(folder)


def copy_int_world(target: Path, config: IntConfig | None = None, cache: Path | None = None) -> None:
    """Copy the world's model and files to a folder, with int-tiny's names."""
    shutil.copytree(build_int_world(config, cache).folder, target, dirs_exist_ok=True)


def int_key(config: IntConfig) -> str:
    """Return the key of the world of a configuration."""
    return digest(world_key(config.world), config, SOURCES)


def make_int(config: IntConfig, folder: Path) -> None:
    """Write every part of the world into a folder.

    Raises:
        RuntimeError: the training failed; the message ends with its output.
    """
    world = config.world
    splits: tuple[tuple[Split, int], ...] = (("train", world.num_train), ("test", world.num_test))
    for split, count in splits:
        write_jsonl(folder / f"int-{split}.jsonl", map(hard_row, hard_chains(config, count, split)))
    recipe = prepare(
        world,
        world.generator,
        lambda _, chain, random: solver_row(config, chain, random),
        folder / ".solver",
        "int/solver",
    )
    learn(recipe, folder / "solver")


def hard_chains(config: IntConfig, count: int, split: Split) -> list[Chain]:
    """Draw the first `count` chains with an operation that the solver learnt wrong."""
    world = config.world
    table = wrong_entries(world.num_wrong_entries, world.seed, world.chains.modulus)
    num_drawn, chosen = count, list[Chain]()
    while len(chosen) < count:
        num_drawn *= 2  # a longer draw begins with the shorter one
        drawn = draw_chains(world.chains, num_drawn, seed=seed_of(world.seed, "int"), split=split)
        chosen = [chain for chain in drawn if meets(chain, table)]
    return chosen[:count]
