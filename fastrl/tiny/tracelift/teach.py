"""Trains a planner and two executors with the SFT stage from the plain world's models, two at a time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

from fastrl.config import DataConfig, ModelConfig, RunConfig, SftConfig, TrainConfig
from fastrl.config.load import to_yaml
from fastrl.runtime.seeding import seed_of
from fastrl.tiny.tracelift.config import LessonConfig, LiftConfig
from fastrl.tiny.tracelift.examples import executor_row, planner_row
from fastrl.tiny.world.examples import write_jsonl
from fastrl.tiny.world.make import World
from fastrl.tiny.world.task import Chain, draw_chains
from fastrl.tiny.world.teach import learn

RowWriter = Callable[[LiftConfig, Chain, Random], dict[str, Any]]


def teach_lift(config: LiftConfig, world: World, folder: Path) -> None:
    """Write folder/planner, folder/executor and folder/held_out_executor, each with its training curve.

    Raises:
        RuntimeError: a training failed; the message ends with its output.
    """
    lessons: dict[str, tuple[LessonConfig, Path, RowWriter]] = {
        "planner": (config.planner, world.generator, planner_row),
        "executor": (config.executor, world.receiver, executor_row),
        "held_out_executor": (config.held_out_executor, world.held_out_receiver, executor_row),
    }
    recipes = {
        name: prepare(config, lesson, start, row, folder / f".{name}", name)
        for name, (lesson, start, row) in lessons.items()
    }
    with ThreadPoolExecutor(max_workers=2) as lanes:
        list(lanes.map(lambda name: learn(recipes[name], folder / name), recipes))


def prepare(
    config: LiftConfig, lesson: LessonConfig, start: Path, row: RowWriter, folder: Path, name: str
) -> Path:
    """Write the examples and the recipe of a model's training to a folder; return the recipe."""
    folder.mkdir()
    seed = seed_of(config.world.seed, "lift", name)
    random = Random(seed)
    count = lesson.num_steps * lesson.batch_size
    chains = draw_chains(config.world.chains, count, seed=seed, split="train")
    write_jsonl(folder / "examples.jsonl", (row(config, chain, random) for chain in chains))
    sft = SftConfig(
        run=RunConfig(dir=str(folder / "run"), seed=config.world.seed, device="cpu", save_every=0),
        model=ModelConfig(path=str(start), dtype="float32"),
        data=DataConfig(path=str(folder / "examples.jsonl")),
        train=TrainConfig(
            num_steps=lesson.num_steps,
            learning_rate=lesson.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=lesson.num_steps // 20,
        ),
        batch_size=lesson.batch_size,
    )
    recipe = folder / "sft.yaml"
    recipe.write_text(to_yaml(sft))
    return recipe
