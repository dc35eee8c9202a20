"""What fastrl reproduce is asked for, and reproduce.json, which holds a folder to one configuration."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from fastrl.config import check_positive, refuse
from fastrl.config.load import load_config, to_yaml
from fastrl.runtime.run import is_free
from fastrl.tiny.interventions.config import IntConfig
from fastrl.tiny.interventions.make import int_key
from fastrl.tiny.reproduce.claims import CLAIMS, Claim, StudyName
from fastrl.tiny.tracelift.config import LiftConfig
from fastrl.tiny.tracelift.make import lift_key
from fastrl.tiny.weak.config import WeakConfig
from fastrl.tiny.weak.make import weak_key
from fastrl.training.progress import write_json

SAVED = "reproduce.json"
RECIPES = (
    "rltr-tiny", "tracelift-math-tiny", "int-tiny", "weak-scarce-tiny", "weak-noise-tiny",
    "weak-selfcertainty-tiny",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is trained and measured: what a folder's numbers depend on."""

    steps: int = 30
    """RL steps of every arm. Twice as many where the reward is self-certainty; in InT, arms without
    interventions take as many as the same number of sampled tokens allows."""
    problems: int = 128
    """Held-out problems of an evaluation."""
    samples: int = 16
    """A problem, for avg@k and maj@k; TraceLift and weak supervision take 4."""
    teach: int | None = None
    """SFT steps of every model of the worlds, for a quick trial; null: as many as the worlds say."""

    def __post_init__(self) -> None:
        check_positive("reproduce", self, "steps", "problems", "samples")
        if self.teach is not None:
            check_positive("reproduce", self, "teach")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReproduceOptions(Sizes):
    """The headline claims of four papers in the tiny world, over seeds, in one table. Started again, it goes
    on; with more seeds or studies, it adds them."""

    dir: str = "runs/reproduce"
    """A folder for each study and seed, and the table."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each has worlds of its own. One seed decides nothing."""
    only: tuple[StudyName, ...] = ()
    """Claims of these studies; none named: all."""
    processes: int = 2
    """Studies at a time, of one thread each."""

    def __post_init__(self) -> None:
        # super() without arguments does not find the class that slots=True makes
        Sizes.__post_init__(self)
        check_positive("reproduce", self, "processes")
        for name in ("seeds", "only"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                refuse("reproduce", name, "each once", " ".join(map(str, values)))
        if not self.seeds:
            refuse("reproduce", "seeds", "at least one", "none")

    @property
    def sizes(self) -> Sizes:
        return Sizes(**{each.name: getattr(self, each.name) for each in fields(Sizes)})

    @property
    def claims(self) -> list[Claim]:
        return [claim for claim in CLAIMS if not self.only or claim.study in self.only]

    @property
    def studies(self) -> list[str]:
        return list(dict.fromkeys(claim.study for claim in self.claims))


def claim_folder(root: Path, sizes: Sizes) -> None:
    """Make the folder, or go on with it.

    Raises:
        ValueError: it holds numbers of another configuration, or something else.
    """
    saved, asked = root / SAVED, configuration(sizes)
    if saved.exists():
        before = json.loads(saved.read_text())
        changed = [name for name in asked if before.get(name) != asked[name]]
        if changed:
            raise ValueError(
                f"[reproduce] dir: {root} holds numbers whose {', '.join(changed)} differ; choose another "
                "folder, or the same values to go on with it"
            )
        return
    if not is_free(root, SAVED):
        raise ValueError(
            f"[reproduce] dir: {root} is not empty and holds no reproduction; choose another folder"
        )
    root.mkdir(parents=True, exist_ok=True)
    write_json(saved, asked)


def read_sizes(root: Path) -> Sizes:
    saved = json.loads((root / SAVED).read_text())
    return Sizes(**{each.name: saved[each.name] for each in fields(Sizes)})


def configuration(sizes: Sizes) -> dict[str, Any]:
    return {**asdict(sizes), **program()}


@cache
def program() -> dict[str, str]:
    """Digests of the worlds (their configuration, the files that make them, torch's version) and of the
    recipes: both change with the program."""
    worlds = [lift_key(LiftConfig()), int_key(IntConfig()), weak_key(WeakConfig())]
    recipes = [to_yaml(load_config(name)) for name in RECIPES]
    return {"worlds": digest(worlds), "recipes": digest(recipes)}


def digest(texts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()[:16]
