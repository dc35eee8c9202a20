"""The grid of a sweep: combinations of field values, and seeds."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from fastrl.config import Recipe, field_names, get_option, refuse
from fastrl.config.load import load_config, read_yaml

OWN = {"run.seed": "which seeds sets", "run.dir": "which is a folder of the sweep's"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A recipe with fixed fields, varied fields and seeds; the content of sweep.yaml."""

    recipe: str
    """Name of a packaged recipe, or path of a .yaml file; pipelines too."""
    fields: dict[str, Any] = field(default_factory=dict)
    """Dotted options with the same value in all runs."""
    vary: dict[str, list[Any]] = field(default_factory=dict)
    """Dotted options with their values. Text is parsed like the recipe's flag: "1e-3" is a number for a
    numeric option, and "a b" are two items for a list option."""
    seeds: list[int] = field(default_factory=lambda: [0])
    metrics: list[str] = field(default_factory=list)
    """Metrics of the table and the plot; in a pipeline, STAGE.METRIC for stages other than the last RL stage.
    Empty: eval/avg@k and the like, and reward; loss if there is neither."""

    def __post_init__(self) -> None:
        for name, kind in (("fields", dict), ("vary", dict), ("seeds", list), ("metrics", list)):
            if not isinstance(getattr(self, name), kind):
                expected = "a mapping of dotted options" if kind is dict else "a list"
                refuse("sweep", name, expected, getattr(self, name))
        for name, values in self.vary.items():
            if not isinstance(values, list) or not values:
                refuse("sweep", f"vary.{name}", "a list of values", values)
            if name in self.fields:
                refuse("sweep", f"vary.{name}", "it not to be set for all runs too", self.fields[name])
        for name in (*self.fields, *self.vary):
            if name in OWN:
                raise ValueError(f"[sweep] {name}: expected another option than this, {OWN[name]}")
        if not all(type(seed) is int for seed in self.seeds) or not self.seeds:
            refuse("sweep", "seeds", "whole numbers, at least one", self.seeds)
        if len(set(self.seeds)) < len(self.seeds):
            refuse("sweep", "seeds", "each once", self.seeds)

    @property
    def combinations(self) -> list[dict[str, Any]]:
        """Return all {field: value}, the last field varying fastest; one empty dict if no field varies."""
        return [dict(zip(self.vary, values, strict=True)) for values in product(*self.vary.values())]


def resolve(grid: Grid) -> tuple[Grid, list[Recipe]]:
    """Parse the grid's values with the recipe's types; return the grid and each combination's configuration.

    Raises:
        FileNotFoundError, ValueError: an unknown recipe or field, equal values, or a value out of range.
        SystemExit: a value has the wrong type; the reason has been printed.
    """
    base = load_config(grid.recipe)
    known = field_names(type(base))
    for name in (*grid.fields, *grid.vary):
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
            hint = f"nearest are {', '.join(near)}" if near else f"one of {', '.join(known)}"
            raise ValueError(f"[sweep] {name}: expected an option of {grid.recipe}, {hint}")
    configs = [
        load_config(grid.recipe, flags(grid.fields | combination, base)) for combination in grid.combinations
    ]
    for name, values in grid.vary.items():
        if len({get_option(config, name) for config in configs}) < len(values):
            refuse("sweep", f"vary.{name}", "values that differ", values)
    typed = {name: list(dict.fromkeys(get_option(own, name) for own in configs)) for name in grid.vary}
    same = {name: get_option(configs[0], name) for name in grid.fields}
    return replace(grid, fields=plainly(same), vary=plainly(typed)), configs


def flags(values: Mapping[str, Any], base: Recipe | None = None) -> list[str]:
    """Format values as the recipe's flags.

    Args:
        base: recipe that defines which options are lists, to split values that are still text.
    """
    found: list[str] = []
    for name, value in values.items():
        if isinstance(value, str) and isinstance(get_option(base, name), tuple):
            value = value.split(" ") if value else []
        words = [word(item) for item in (value if isinstance(value, list | tuple) else [value])]
        # --name=value: the text may begin with a dash
        found += [f"--{name}={words[0]}"] if len(words) == 1 else [f"--{name}", *words]
    return found


def word(value: Any) -> str:
    """Format a value as flags and recipes spell it: null, true, 0.001."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def read_grid(path: Path) -> Grid:
    """Read a grid from a YAML file; raise ValueError for an unknown key."""
    data = read_yaml(path)
    known = [option.name for option in fields(Grid)]
    for name in data:
        if name not in known:
            refuse("sweep", f"{path}", f"keys among {', '.join(known)}", name)
    if not isinstance(data.get("recipe"), str):
        refuse("sweep", f"{path}", "recipe, a name or a path", data.get("recipe"))
    return Grid(**data)


def to_yaml(grid: Grid) -> str:
    """Return the grid as YAML; read_grid reads it back."""
    return yaml.safe_dump(plainly(asdict(grid)), sort_keys=False, allow_unicode=True)


def plainly(value: Any) -> Any:
    """Convert tuples to lists, recursively."""
    if isinstance(value, dict):
        return {key: plainly(item) for key, item in value.items()}
    return [plainly(item) for item in value] if isinstance(value, list | tuple) else value


def is_sweep(path: str) -> bool:
    """Return True if a path is a sweep file, which has the key `recipe`, and not a recipe."""
    return path.endswith((".yaml", ".yml")) and Path(path).is_file() and "recipe" in read_yaml(Path(path))


def only_adds(before: Grid, now: Grid) -> None:
    """Raise ValueError unless `now` equals `before` with more values or seeds; metrics may differ.

    Args:
        before: the folder's grid.
        now: the new grid, with parsed values.
    """
    for name in ("recipe", "fields"):
        if getattr(before, name) != getattr(now, name):
            refuse("sweep", name, f"{getattr(before, name)!r} as in the folder's sweep", getattr(now, name))
    if set(before.vary) != set(now.vary):
        refuse("sweep", "vary", f"the fields of the folder's sweep, {list(before.vary)}", list(now.vary))
    pairs = [(f"vary.{name}", before.vary[name], now.vary[name]) for name in before.vary]
    for name, old, new in [*pairs, ("seeds", before.seeds, now.seeds)]:
        if missing := [value for value in old if value not in new]:
            raise ValueError(
                f"[sweep] {name}: expected {missing} among them, since the folder's sweep has it; values and "
                f"seeds can be added to a sweep; got {new}"
            )
