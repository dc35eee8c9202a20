"""Options of fastrl reproduce, and reproduce.json, which binds a folder to one configuration."""

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
    """Sizes of training and evaluation, fixed per folder."""

    steps: int = 30
    """RL steps per arm. The self-certainty reward takes twice as many; in InT, arms without interventions
    take as many as an equal budget of sampled tokens allows."""
    problems: int = 128
    """Held-out problems per evaluation."""
    samples: int = 16
    """Samples per problem for avg@k and maj@k; TraceLift and weak supervision use 4."""
    teach: int | None = None
    """SFT steps of every model of the worlds, for a quick trial; null: the worlds' defaults."""

    def __post_init__(self) -> None:
        check_positive("reproduce", self, "steps", "problems", "samples")
        if self.teach is not None:
            check_positive("reproduce", self, "teach")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReproduceOptions(Sizes):
    """Test the main claims of four papers in the tiny world, over seeds, and print one table. Run it again to
    resume, or to add seeds or studies."""

    dir: str = "runs/reproduce"
    """Folder for the studies' folders and the table."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each seed has its own worlds. A single seed leaves every claim undecided."""
    only: tuple[StudyName, ...] = ()
    """Studies whose claims to test; empty: all."""
    processes: int = 2
    """Number of parallel studies, with one thread each."""

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
        return Sizes(**{field.name: getattr(self, field.name) for field in fields(Sizes)})

    @property
    def claims(self) -> list[Claim]:
        return [claim for claim in CLAIMS if not self.only or claim.study in self.only]

    @property
    def studies(self) -> list[str]:
        return list(dict.fromkeys(claim.study for claim in self.claims))


def claim_folder(root: Path, sizes: Sizes) -> None:
    """Create the folder, or check that it can be resumed.

    Raises:
        ValueError: it holds results of another configuration, or other files.
    """
    saved, now = root / SAVED, configuration(sizes)
    if saved.exists():
        before = json.loads(saved.read_text())
        changed = [name for name in now if before.get(name) != now[name]]
        if changed:
            raise ValueError(
                f"[reproduce] dir: {root} holds numbers whose {', '.join(changed)} differ; choose another "
                "folder, or the same values to resume it"
            )
        return
    if not is_free(root, SAVED):
        raise ValueError(
            f"[reproduce] dir: {root} is not empty and holds no reproduction; choose another folder"
        )
    root.mkdir(parents=True, exist_ok=True)
    write_json(saved, now)


def read_sizes(root: Path) -> Sizes:
    saved = json.loads((root / SAVED).read_text())
    return Sizes(**{field.name: saved[field.name] for field in fields(Sizes)})


def configuration(sizes: Sizes) -> dict[str, Any]:
    return {**asdict(sizes), **program()}


@cache
def program() -> dict[str, str]:
    """Return digests of the worlds (configuration, source files, torch's version) and of the recipes."""
    worlds = [lift_key(LiftConfig()), int_key(IntConfig()), weak_key(WeakConfig())]
    recipes = [to_yaml(load_config(name)) for name in RECIPES]
    return {"worlds": digest(worlds), "recipes": digest(recipes)}


def digest(texts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()[:16]
