"""InT's tiny world: problems with references, and a solver that can check an attempt; made once and kept."""

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

# The text of these files decides what this world is, next to the plain world's own.
SOURCES = tuple(f"tiny/interventions/{name}.py" for name in ("config", "examples", "make"))


@dataclass(frozen=True, slots=True)
class IntWorld:
    """A folder with a Hugging Face checkpoint and problems as JSONL, with prompt, solution, reference and
    expression."""

    folder: Path

    @property
    def solver(self) -> Path:
        """Does some operations wrong every time. Checks an attempt against a reference, right three times in
        four, and follows a reference that it is shown."""
        return self.folder / "solver"

    @property
    def train(self) -> Path:
        """Every problem meets one of these operations."""
        return self.folder / "int-train.jsonl"

    @property
    def test(self) -> Path:
        """The same, held out."""
        return self.folder / "int-test.jsonl"


def build_int_world(config: IntConfig | None = None, cache: Path | None = None) -> IntWorld:
    """Return the world that a configuration describes, from the cache or made now.

    Args:
        cache: folder of worlds; None: $FASTRL_CACHE/tiny, or ~/.cache/fastrl/tiny.
    """
    config = config or IntConfig()
    folder = (cache or default_cache()) / f"int-{int_key(config)}"
    make_once(folder, partial(make_int, config))
    return IntWorld(folder)


def copy_int_world(target: Path, config: IntConfig | None = None, cache: Path | None = None) -> None:
    """Add the world's model and files to a folder, as int-tiny names them."""
    shutil.copytree(build_int_world(config, cache).folder, target, dirs_exist_ok=True)


def int_key(config: IntConfig) -> str:
    """Return the key of the world of a configuration."""
    return digest(world_key(config.world), config, SOURCES)


def make_int(config: IntConfig, folder: Path) -> None:
    """Write every part of the world into a folder.

    Raises:
        RuntimeError: the training failed; ends with what it said.
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
    """The first `count` chains of a draw that meet an operation learnt wrong."""
    world = config.world
    table = wrong_entries(world.num_wrong_entries, world.seed, world.chains.modulus)
    num_drawn, chosen = count, list[Chain]()
    while len(chosen) < count:
        num_drawn *= 2  # a longer draw begins with the shorter one
        drawn = draw_chains(world.chains, num_drawn, seed=seed_of(world.seed, "int"), split=split)
        chosen = [chain for chain in drawn if meets(chain, table)]
    return chosen[:count]
