"""The runs of a sweep: their folders, checks and states.

sweep.yaml                      the grid
loss.kl_coef=0.001/seed-0/      a run folder, as fastrl train writes it
loss.kl_coef=0.001/seed-0.log   the run's output, with the command before each start
loss.kl_coef=0.001/seed-0.json  the run's exit code and configuration, once it has ended
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
        """The run's name, such as loss.kl_coef=0.001/seed-0."""
        return "/".join(self.folder.parts[-2:]) if self.values else self.folder.name

    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def ended(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.json")

    def configured(self, config: Recipe) -> Recipe:
        """Return the combination's configuration with this run's folder and seed."""
        return replace(config, run=replace(config.run, dir=str(self.folder), seed=self.seed))  # type: ignore[arg-type]


def cells(grid: Grid, folder: Path) -> list[Cell]:
    """Return all runs, ordered by seed, so that every combination has a first run early."""
    return [
        Cell(values=values, seed=seed, folder=folder / combination_folder(values) / f"seed-{seed}")
        for seed in grid.seeds
        for values in grid.combinations
    ]


def combination_folder(values: Mapping[str, Any]) -> str:
    """Return a readable and unique folder name of a combination."""
    name = ",".join(f"{name}={safe(values[name])}" for name in sorted(values))
    return name if len(name) <= LONGEST_FOLDER else f"{name[:LONGEST_FOLDER]}~{digest(dict(values))}"


def safe(value: Any) -> str:
    """Return a value as part of a folder's name, with a hash if characters had to be dropped."""
    whole = value_text(value)
    kept = re.sub(r"[^\w.+-]", "_", whole.rstrip("/").rpartition("/")[2])[-LONGEST_NAME:]
    lists_apart = not isinstance(value, list) or whole.count("+") == len(value) - 1
    return kept if kept == whole and lists_apart else f"{kept}~{digest(value)}"


def digest(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=4).hexdigest()


def value_text(value: Any) -> str:
    """Format a value as text, such as 0.001, null or answer+format."""
    if isinstance(value, list):
        return "+".join(map(value_text, value))
    return word(value).removesuffix(".0") if isinstance(value, float) else word(value)


def check_cells(sweep: Sequence[Cell], configs: Sequence[Recipe]) -> None:
    """Check all runs before the first one starts.

    Args:
        configs: configuration of each cell's combination.
    Raises:
        ValueError, FileNotFoundError: a run's own error, with the run's name added.
    """
    checked: set[str] = set()
    for cell, config in zip(sweep, configs, strict=True):
        config = cell.configured(config)
        try:
            # the checks don't depend on the seed
            if combination_folder(cell.values) not in checked:
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
    """Raise ValueError if another recipe has run in the folder; a finished run would be skipped silently."""
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
    """Raise ValueError if the folder holds other files, or a sweep that the grid does not extend."""
    if (folder / "sweep.yaml").exists():
        only_adds(read_grid(folder / "sweep.yaml"), grid)
    elif folder.is_dir() and any(entry.name != LOCK for entry in folder.iterdir()):
        raise ValueError(f"[sweep] dir: {folder} is not empty and holds no sweep; choose another folder")


def write_end(cell: Cell, config: Recipe, code: int) -> None:
    """Write a run's exit code and configuration next to its folder."""
    write_atomic(cell.ended, json.dumps({"code": code, "config": to_dict(cell.configured(config))}) + "\n")


def exit_code_of(cell: Cell) -> int | None:
    """Return a run's exit code; None if it has not ended, or its folder was deleted."""
    if not cell.ended.exists():
        return None
    code: int = json.loads(cell.ended.read_text())["code"]
    return None if code == 0 and not cell.folder.is_dir() else code


def finished(cell: Cell, config: Recipe) -> bool:
    """Return True if the run has ended with this configuration; with more steps it resumes."""
    if exit_code_of(cell) != 0:
        return False
    before = as_stored(json.loads(cell.ended.read_text())["config"])
    return before == in_use(cell.configured(config))


def failure(cell: Cell) -> str | None:
    """Return how a run failed: exit code or signal, and its log's last line; None if it did not fail."""
    code = exit_code_of(cell)
    if not code:
        return None
    how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    return f"{how}: {last_line(cell.log.read_text(errors='replace').splitlines())}"


def last_line(lines: Iterable[str]) -> str:
    return next((line.strip() for line in reversed(list(lines)) if line.strip()), "nothing was printed")
