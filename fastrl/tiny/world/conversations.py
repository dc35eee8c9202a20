"""Conversations of the tiny world: a problem, and its right explicit steps, for the recipe sft-tiny."""

from __future__ import annotations

from pathlib import Path

from fastrl.runtime.seeding import seed_of
from fastrl.tiny.world.config import WorldConfig
from fastrl.tiny.world.examples import write_jsonl
from fastrl.tiny.world.task import draw_chains
from fastrl.tiny.world.traces import reference_solution

FILE, NUM_ROWS = "sft.jsonl", 1024


def write_conversations(folder: Path, config: WorldConfig | None = None) -> None:
    """Write sft.jsonl, with a prompt and a completion in each row, into the folder of a world.

    Args:
        config: of the world; its held-out problems are not among these.
    """
    config = config or WorldConfig()
    chains = draw_chains(config.chains, NUM_ROWS, seed=seed_of(config.seed, "sft"), split="train")
    rows = ({"prompt": chain.expression, "completion": reference_solution(chain)} for chain in chains)
    write_jsonl(folder / FILE, rows)
