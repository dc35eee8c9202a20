"""The runs of a sweep: where each one lies, whether it can run, and how far it is.

sweep.yaml                      what is swept
loss.kl_coef=0.001/seed-0/      a run folder, as fastrl train writes it
loss.kl_coef=0.001/seed-0.log   what the run printed, every start under its command
loss.kl_coef=0.001/seed-0.json  how the run ended; there is none while it goes on
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastrl.check import check_config
from fastrl.config import PipelineConfig, Recipe, differences, in_use
from fastrl.config.load import as_stored, read_stored, to_dict
from fastrl.runtime.run import MAY_CHANGE, write_atomic
from fastrl.stages.pipeline import check_pipeline, claim
from fastrl.tools.sweep.grid import Grid, only_adds, read_grid, word

LONGEST_NAME, LONGEST_FOLDER = 60, 200
LOCK = ".lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One run: a combination of values, and a seed."""

    values: Mapping[str, Any]
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """loss.kl_coef=0.001/seed-0"""
        return "/".join(self.folder.parts[-2:]) if self.values else self.folder.name

    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def ended(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.json")

    def configured(self, config: Recipe) -> Recipe:
        """The combination's configuration with this run's folder and seed."""
        return replace(config, run=replace(config.run, dir=str(self.folder), seed=self.seed))  # type: ignore[arg-type]


def cells(grid: Grid, folder: Path) -> list[Cell]:
    """All runs, seed by seed, so that every combination has a first run early."""
    return [
        Cell(values=values, seed=seed, folder=folder / combination_folder(values) / f"seed-{seed}")
        for seed in grid.seeds
        for values in grid.combinations
    ]


def combination_folder(values: Mapping[str, Any]) -> str:
    """A combination's folder: readable, and another one for every other combination."""
    name = ",".join(f"{name}={safe(values[name])}" for name in sorted(values))
    return name if len(name) <= LONGEST_FOLDER else f"{name[:LONGEST_FOLDER]}~{digest(dict(values))}"


def safe(value: Any) -> str:
    """A value as a part of a folder's name; where that says less than the value, a digest says the rest."""
    whole = value_text(value)
    kept = re.sub(r"[^\w.+-]", "_", whole.rstrip("/").rpartition("/")[2])[-LONGEST_NAME:]
    lists_apart = not isinstance(value, list) or whole.count("+") == len(value) - 1
    return kept if kept == whole and lists_apart else f"{kept}~{digest(value)}"


def digest(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=4).hexdigest()


def value_text(value: Any) -> str:
    """0.001, null, answer+format"""
    if isinstance(value, list):
        return "+".join(map(value_text, value))
    return word(value).removesuffix(".0") if isinstance(value, float) else word(value)


def check_cells(sweep: Sequence[Cell], configs: Sequence[Recipe]) -> None:
    """Refuse what can't run, in any run, before the first one starts.

    Args:
        configs: of each cell's combination.
    Raises:
        ValueError, FileNotFoundError: as of the run, which is named.
    """
    checked: set[str] = set()
    for cell, config in zip(sweep, configs, strict=True):
        config = cell.configured(config)
        try:
            if (
                combination_folder(cell.values) not in checked
            ):  # another seed changes nothing of what is checked
                check_recipe(config)
            claimed(config)
        except (ValueError, FileNotFoundError) as error:
            if not str(error).startswith("["):
                raise
            raise type(error)(f"{error}; in {cell.name}") from error
        checked.add(combination_folder(cell.values))


def check_recipe(config: Recipe) -> None:
    if isinstance(config, PipelineConfig):
        check_pipeline(config, check_config)
    else:
        check_config(config)


def claimed(config: Recipe) -> None:
    """Refuse a folder in which another recipe has run; one that is finished would not say so itself."""
    if isinstance(config, PipelineConfig):
        claim(config)
        return
    saved = Path(config.run.dir) / "config.yaml"
    if not saved.exists():
        return
    changed = [name for name in differences(read_stored(saved), in_use(config)) if name not in MAY_CHANGE]
    if changed:
        raise ValueError(
            f"[sweep] dir: expected runs of this recipe, got one whose {', '.join(changed)} differ; choose "
            "another folder, or the recipe as it was"
        )


def check_folder(folder: Path, grid: Grid) -> None:
    """Refuse a folder that holds something else, or a sweep to which the grid does not only add."""
    if (folder / "sweep.yaml").exists():
        only_adds(read_grid(folder / "sweep.yaml"), grid)
    elif folder.is_dir() and any(each.name != LOCK for each in folder.iterdir()):
        raise ValueError(f"[sweep] dir: {folder} is not empty and holds no sweep; choose another folder")


def write_end(cell: Cell, config: Recipe, code: int) -> None:
    """Put down how a run ended, beside its folder."""
    write_atomic(cell.ended, json.dumps({"code": code, "config": to_dict(cell.configured(config))}) + "\n")


def exit_code_of(cell: Cell) -> int | None:
    """None: the run has not ended, or nothing is left of it."""
    if not cell.ended.exists():
        return None
    code: int = json.loads(cell.ended.read_text())["code"]
    return None if code == 0 and not cell.folder.is_dir() else code


def finished(cell: Cell, config: Recipe) -> bool:
    """Whether the run came to its end as it is configured now; with more steps, it goes on."""
    if exit_code_of(cell) != 0:
        return False
    before = as_stored(json.loads(cell.ended.read_text())["config"])
    return before == in_use(cell.configured(config))


def failure(cell: Cell) -> str | None:
    """Why the run failed: how it ended, and its log's last line. None: it did not."""
    code = exit_code_of(cell)
    if not code:
        return None
    how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    return f"{how}: {last_line(cell.log.read_text(errors='replace').splitlines())}"


def last_line(lines: Iterable[str]) -> str:
    return next((line.strip() for line in reversed(list(lines)) if line.strip()), "nothing was printed")
