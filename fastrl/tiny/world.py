"""The tiny world: problems, a generator and two receivers, made by the project's own SFT stage and cached."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import torch

from fastrl.config import DataConfig, ModelConfig, RunConfig, SftConfig, TrainConfig
from fastrl.stages.sft import run_sft
from fastrl.tiny.models import GENERATOR, HELD_OUT_RECEIVER, RECEIVER, Shape, initialise
from fastrl.tiny.notation import STYLES
from fastrl.tiny.task import Chain, ChainConfig, Split, draw_chains
from fastrl.tiny.traces import reference_solution, work, wrong_entries

log = logging.getLogger(__name__)
# Whatever is written in these files decides what a world is, so its cache key holds their text.
SOURCES = (
    "check.py", "models.py", "notation.py", "task.py", "tokenizers.py", "traces.py", "world.py",
    "../stages/conversations.py", "../stages/sft.py",
)  # fmt: skip
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerConfig:
    """How one of the world's models is made."""

    shape: Shape
    num_steps: int
    batch_size: int = 24
    learning_rate: float = 3e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldConfig:
    """Everything that a world is made from."""

    seed: int = 0
    chains: ChainConfig = field(default_factory=ChainConfig)
    num_train: int = 2000
    """Problems to do RL on; held-out ones are another split."""
    num_test: int = 256
    style_shares: tuple[float, float, float] = (0.3, 0.25, 0.45)
    """Parts of the generator's examples that are explicit, leaps and private."""
    slip_rates: tuple[float, float, float] = (0.08, 0.06, 0.04)
    """Share of the written steps that are wrong in each style: it is surest in its own shorthand."""
    num_wrong_entries: int = 0
    """Operations, of 300, that the generator's examples get wrong every time."""
    cut_share: float = 0.3
    """Share of the receivers' examples that begin in the middle of a trace."""
    generator: LearnerConfig = field(default_factory=lambda: LearnerConfig(shape=GENERATOR, num_steps=500))
    receiver: LearnerConfig = field(default_factory=lambda: LearnerConfig(shape=RECEIVER, num_steps=400))
    held_out_receiver: LearnerConfig = field(
        default_factory=lambda: LearnerConfig(shape=HELD_OUT_RECEIVER, num_steps=400)
    )


@dataclass(frozen=True, slots=True)
class World:
    """Hugging Face checkpoints, and problems as JSONL with prompt, solution and expression."""

    generator: Path
    """Writes explicit steps, leaps and private shorthand in equal parts, with slips."""
    receiver: Path
    """Has read explicit steps only, under another tokenizer."""
    held_out_receiver: Path
    """Another size and other examples than the receiver; for evaluation alone."""
    train: Path
    test: Path


RowWriter = Callable[[WorldConfig, Chain, Random], dict[str, Any]]


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
        chains = draw_chains(config.chains, count, seed=config.seed, split=split)
        write_jsonl(folder / f"{split}.jsonl", map(problem_row, chains))
    teach(config, config.generator, folder / "generator", generator_row, seed=3 * config.seed)
    teach(config, config.receiver, folder / "receiver", receiver_row, seed=3 * config.seed + 1)
    teach(
        config, config.held_out_receiver, folder / "held_out_receiver", receiver_row, seed=3 * config.seed + 2
    )


def teach(config: WorldConfig, learner: LearnerConfig, folder: Path, row: RowWriter, *, seed: int) -> None:
    """Initialise a model, write its examples, fine-tune it on them, and keep the checkpoint alone."""
    work_folder = folder.with_name(f".{folder.name}")
    random = Random(f"{seed}/examples")
    chains = draw_chains(config.chains, learner.num_steps * learner.batch_size, seed=seed, split="train")
    write_jsonl(
        work_folder / "examples.jsonl",
        (row(config, chain, random) for chain in chains),
    )
    start = initialise(learner.shape, work_folder / "start", seed=seed)
    trained = run_sft(
        SftConfig(
            run=RunConfig(dir=str(work_folder / "run"), seed=seed, device="cpu", save_every=0),
            model=ModelConfig(path=str(start), dtype="float32"),
            data=DataConfig(path=str(work_folder / "examples.jsonl")),
            train=TrainConfig(
                num_steps=learner.num_steps,
                learning_rate=learner.learning_rate,
                warmup_steps=learner.num_steps // 20,
            ),
            batch_size=learner.batch_size,
            schedule="cosine",
        )
    )
    folder.mkdir()
    for name in ("config.json", "generation_config.json", "model.safetensors", *TOKENIZER_FILES):
        shutil.copy2(trained / name, folder / name)
    shutil.copy2(work_folder / "run" / "metrics.jsonl", folder / "sft_metrics.jsonl")
    shutil.rmtree(work_folder)


def problem_row(chain: Chain) -> dict[str, Any]:
    return {"prompt": chain.expression, "solution": str(chain.answer), "expression": chain.expression}


def generator_row(config: WorldConfig, chain: Chain, random: Random) -> dict[str, Any]:
    """A trace in one of the three styles, with slips and systematic errors."""
    table = wrong_entries(config.num_wrong_entries, config.seed, config.chains.modulus)
    (place,) = random.choices(range(len(STYLES)), weights=config.style_shares)
    trace = work(chain, random, style=STYLES[place], slip_rate=config.slip_rates[place], table=table)
    return {"prompt": chain.expression, "completion": trace}


def receiver_row(config: WorldConfig, chain: Chain, random: Random) -> dict[str, Any]:
    """The right explicit trace, from its start or from any place on."""
    trace = reference_solution(chain)
    if random.random() >= config.cut_share:
        return {"prompt": chain.expression, "completion": trace}
    cut = random.randrange(len(trace))
    begun = [{"role": "user", "content": chain.expression}, {"role": "assistant", "content": trace[:cut]}]
    return {"prompt": begun, "completion": trace[cut:]}


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def export_world(folder: str | Path, config: WorldConfig | None = None) -> Path:
    """A copy of the world under a path of one's own, as the *-tiny recipes name it. Overwrites nothing."""
    target = Path(folder)
    if target.exists():
        raise ValueError(f"[tiny] dir: expected a folder that does not exist yet, got {str(folder)!r}")
    world = build_world(config)
    shutil.copytree(world.generator.parent, target)
    return target
