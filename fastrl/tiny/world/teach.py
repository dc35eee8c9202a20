"""Trains the world's models with the SFT stage, one process each, two at a time.

A process uses one thread, so that the world does not depend on the machine's number of cores.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

from fastrl.config import DataConfig, ModelConfig, RunConfig, SftConfig, TrainConfig
from fastrl.config.load import to_yaml
from fastrl.runtime.seeding import seed_of
from fastrl.tiny.world.config import LearnerConfig, WorldConfig
from fastrl.tiny.world.examples import generator_row, receiver_row, write_jsonl
from fastrl.tiny.world.models import initialise
from fastrl.tiny.world.task import Chain, draw_chains

RowWriter = Callable[[WorldConfig, Chain, Random], dict[str, Any]]
KEPT = (
    "config.json", "generation_config.json", "model.safetensors",
    "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
)  # fmt: skip


def teach(config: WorldConfig, folder: Path) -> None:
    """Write folder/generator, folder/receiver and folder/held_out_receiver as Hugging Face folders, each with
    its training metrics in sft_metrics.jsonl.

    Raises:
        RuntimeError: a training failed; the message ends with its output.
    """
    lessons: dict[str, tuple[LearnerConfig, RowWriter]] = {
        "generator": (config.generator, generator_row),
        "receiver": (config.receiver, receiver_row),
        "held_out_receiver": (config.held_out_receiver, receiver_row),
    }
    recipes = {
        name: prepare(config, learner, row, folder / f".{name}", name)
        for name, (learner, row) in lessons.items()
    }
    # two processes: the generator takes as long as both receivers together
    with ThreadPoolExecutor(max_workers=2) as lanes:
        list(lanes.map(lambda name: learn(recipes[name], folder / name), recipes))


def learn(recipe: Path, folder: Path) -> None:
    """Run a recipe in its own process; copy the last checkpoint to a plain Hugging Face folder."""
    process = start(recipe)
    try:
        finish(process, recipe.parent, folder)
    finally:
        process.kill()
        process.wait()


def prepare(config: WorldConfig, learner: LearnerConfig, row: RowWriter, folder: Path, name: str) -> Path:
    """Write initial weights, examples and the recipe of a model's training; return the recipe."""
    folder.mkdir()
    seed = seed_of(config.seed, name)
    random = Random(seed)
    chains = draw_chains(config.chains, learner.num_steps * learner.batch_size, seed=seed, split="train")
    write_jsonl(folder / "examples.jsonl", (row(config, chain, random) for chain in chains))
    sft = SftConfig(
        run=RunConfig(dir=str(folder / "run"), seed=config.seed, device="cpu", save_every=0),
        model=ModelConfig(path=str(initialise(learner.shape, folder / "start", seed=seed)), dtype="float32"),
        data=DataConfig(path=str(folder / "examples.jsonl")),
        train=TrainConfig(
            num_steps=learner.num_steps,
            learning_rate=learner.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=learner.num_steps // 20,
        ),
        batch_size=learner.batch_size,
    )
    recipe = folder / "sft.yaml"
    recipe.write_text(to_yaml(sft))
    return recipe


def start(recipe: Path) -> subprocess.Popen[bytes]:
    """Start `python -m fastrl.train RECIPE`, with its output in log.txt next to the recipe."""
    with (recipe.parent / "log.txt").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "fastrl.train", str(recipe)],
            env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def finish(process: subprocess.Popen[bytes], work: Path, folder: Path) -> None:
    """Wait for a training; copy its checkpoint and metrics to `folder`, and delete `work`."""
    if process.wait() != 0:
        output = (work / "log.txt").read_text(errors="replace")[-2000:]
        raise RuntimeError(
            f"[tiny] {folder.name}: training ended with exit code {process.returncode}\n{output}"
        )
    (trained,) = (work / "run" / "checkpoints").glob("step-*")
    folder.mkdir()
    for file in KEPT:
        shutil.copy2(trained / file, folder / file)
    shutil.copy2(work / "run" / "metrics.jsonl", folder / "sft_metrics.jsonl")
    shutil.rmtree(work)
