"""Parses the command line of fastrl sweep: its own options and fields of the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastrl.config import refuse
from fastrl.tools.sweep.grid import Grid, is_sweep, read_grid

FLAGS = ("table", "dry_run", "help")
OPTIONS = ("dir", "seeds", "metric", "gpus")


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRequest:
    """The parsed command line, not checked against the recipe yet."""

    path: str | None
    """Recipe or sweep file."""
    options: Mapping[str, list[str]]
    """Sweep's own options and their values."""
    vary: Mapping[str, list[Any]]
    fields: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        if len(self.options.get("dir", [])) != 1:
            refuse("sweep", "dir", "a folder (--dir runs/NAME)", " ".join(self.options.get("dir", [])))
        return Path(self.options["dir"][0])


def read_request(arguments: list[str]) -> SweepRequest:
    """Split a command line into options with values; options that aren't sweep's are the recipe's fields."""
    path = arguments.pop(0) if arguments and not arguments[0].startswith("-") else None
    options: dict[str, list[str]] = {}
    vary: dict[str, list[Any]] = {}
    fields: dict[str, Any] = {}
    while arguments:
        name, words = take_option(arguments)
        if name == "vary":
            field, *values = words or [""]
            if not values or field in vary:
                refuse("sweep", "vary", "a field, once, and its values", " ".join(words))
            vary[field.replace("-", "_")] = values
        elif name in (*FLAGS, *OPTIONS):
            if (name in FLAGS) == bool(words):
                refuse("sweep", name, "nothing after it" if words else "what follows it", " ".join(words))
            options[name] = [*options.get(name, []), *words]
        else:
            fields[name] = words
    if len(set(options.get("gpus", []))) < len(options.get("gpus", [])):
        refuse("sweep", "gpus", "each once", " ".join(options["gpus"]))
    return SweepRequest(path=path, options=options, vary=vary, fields=fields)


def take_option(arguments: list[str]) -> tuple[str, list[str]]:
    """Remove `--name a b` or `--name=a` from the front; return the name and the values."""
    flag, equals, value = arguments.pop(0).partition("=")
    if flag == "-h":
        flag = "--help"
    if not flag.startswith("--"):
        refuse("sweep", "arguments", "an option, --name", flag)
    words = [value] if equals else []
    while not equals and arguments and not arguments[0].startswith("--"):
        words.append(arguments.pop(0))
    return flag[2:].replace("-", "_"), words


def grid_of(request: SweepRequest) -> Grid:
    """Build the grid from a sweep file or a recipe; the command line overrides the file."""
    if request.path is None:
        refuse("sweep", "RECIPE", "it before any flag", "nothing")
    grid = read_grid(Path(request.path)) if is_sweep(request.path) else Grid(recipe=request.path)
    seeds = request.options.get("seeds", grid.seeds)
    if not all(str(seed).lstrip("-").isdecimal() for seed in seeds):
        refuse("sweep", "seeds", "whole numbers", " ".join(map(str, seeds)))
    # a field set on the command line no longer varies, and a varied field is no longer set
    fields = {name: value for name, value in grid.fields.items() if name not in request.vary}
    vary = {name: values for name, values in grid.vary.items() if name not in request.fields}
    return replace(
        grid,
        fields=fields | dict(request.fields),
        vary=vary | dict(request.vary),
        seeds=[int(seed) for seed in seeds],
        metrics=request.options.get("metric", grid.metrics),
    )
