"""Conversations of the tiny world for the recipe sft-tiny: problems with right explicit steps."""

from __future__ import annotations

from pathlib import Path

from fastrl.runtime.seeding import seed_of
from fastrl.tiny.world.config import WorldConfig
from fastrl.tiny.world.examples import write_jsonl
from fastrl.tiny.world.task import draw_chains
from fastrl.tiny.world.traces import reference_solution

FILE, NUM_ROWS = "sft.jsonl", 1024


def write_conversations(folder: Path, config: WorldConfig | None = None) -> None:
    """Write sft.jsonl, with a prompt and a completion per row, to the folder of a world.

    Args:
        config: the world's configuration; its held-out problems are not used.
    """
    config = config or WorldConfig()
    chains = draw_chains(config.chains, NUM_ROWS, seed=seed_of(config.seed, "sft"), split="train")
    rows = ({"prompt": chain.expression, "completion": reference_solution(chain)} for chain in chains)
    write_jsonl(folder / FILE, rows)
