"""Groups of judged traces, and a reward-model stage that learns from them."""

from __future__ import annotations

import json
from dataclasses import replace

from fastrl.config import (
    BackboneConfig,
    DataConfig,
    LoraConfig,
    RewardModelConfig,
    RubricLossConfig,
    RunConfig,
    TrainConfig,
)
from fastrl.methods.tracelift.rubric_dimensions import DIMENSIONS
from fastrl.methods.tracelift.trace_groups import Group, Trace, to_row

GOOD = dict.fromkeys(DIMENSIONS["math"], 9.0)
KINDS = {"slip": "calculation_correctness", "jump": "step_coherence", "swap": "solution_strategy"}


def trace(text, kind=None, total=1.0):
    scores = GOOD if kind is None else {**GOOD, KINDS[kind]: 1.0}
    return Trace(text=text, scores=scores, total=total, negative_kind=kind)


def group(k, negatives=5, task="math"):
    """The flawed traces hold a mark, and are of three kinds."""
    flawed = [
        trace(f"{k} + {n} = {k + n} !", list(KINDS)[n % 3], total=0.2 + 0.1 * n) for n in range(negatives)
    ]
    group = Group(
        problem_id=str(k), task=task, problem=f"What is {k} + {k}?", reference_solution="", answer=str(2 * k),
        positive_pool=(trace(f"{k} + {k} = {2 * k} ."), trace(f"twice {k} = {2 * k} .")),
        negative_bank=tuple(flawed),
    )  # fmt: skip
    if task == "math":
        return group
    code = [replace(each, scores=dict.fromkeys(DIMENSIONS["code"], 5.0)) for each in group.positive_pool]
    return replace(group, positive_pool=tuple(code), negative_bank=tuple(code))


def write(path, groups):
    path.write_text("".join(json.dumps(to_row(each)) + "\n" for each in groups))
    return str(path)


def config_of(checkpoint, folder, *, negatives=4, rank=0, **train):
    folder.mkdir(exist_ok=True)
    return RewardModelConfig(
        run=RunConfig(dir=str(folder / "run"), seed=3, device="cpu", save_every=2),
        model=BackboneConfig(path=str(checkpoint)),
        data=DataConfig(path=write(folder / "train.jsonl", [group(k, 3 + k % 4) for k in range(11)])),
        eval_path=write(folder / "dev.jsonl", [group(k, 3) for k in range(20, 26)]),
        lora=LoraConfig(rank=rank, alpha=8.0, dropout=0.1),
        loss=RubricLossConfig(num_negatives=negatives),
        train=TrainConfig(**{"num_steps": 4, "learning_rate": 3e-3, **train}),
        groups_per_step=5,
        max_tokens=400,
    )
