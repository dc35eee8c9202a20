"""fastrl sweep: train every combination of field values with every seed, and print one table."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from fastrl.cli.sweep_request import SweepRequest, grid_of, read_request
from fastrl.config import refuse
from fastrl.report.console import number
from fastrl.runtime.run import write_atomic
from fastrl.tools.sweep.cells import (
    Cell,
    cells,
    check_cells,
    check_folder,
    combination_folder,
    failure,
    finished,
    write_end,
)
from fastrl.tools.sweep.grid import Grid, flags, read_grid, resolve, to_yaml
from fastrl.tools.sweep.numbers import headline_metrics, quantities
from fastrl.tools.sweep.results import read_run, write_table
from fastrl.tools.sweep.schedule import locked, run_missing
from fastrl.tools.sweep.table import table_text

USAGE = """\
usage: fastrl sweep RECIPE --dir FOLDER [options] [--field value ...]
       fastrl sweep FILE.yaml --dir FOLDER    read recipe, fields, vary, seeds, metrics from a sweep.yaml
       fastrl sweep --dir FOLDER --table      print the results so far; start no run

Trains RECIPE with every combination of the varied fields and every seed, one run after another, and writes
table.md and table.csv: means over seeds with 95 % t-intervals. Run the command again to resume it, or to add
values or seeds. fastrl plot plots the runs.

  --dir FOLDER                folder for the runs' folders and the table
  --seeds N [N ...]           default: 0
  --vary FIELD VALUE [...]    a field of the recipe and its values; repeat for each field. For a list field,
                              "a b" is one value
  --metric NAME [...]         metrics in the table (pipeline: also STAGE.NAME); default: evaluations, reward
  --gpus N [N ...]            GPUs to use, one run at a time on each
  --dry-run                   check all runs and print their commands
  --field value               any field of the recipe, for all runs"""


def main(arguments: list[str]) -> int:
    """Train missing runs, print and write the table; return 0 if all have finished, 1 if some failed."""
    request = read_request(arguments)
    if "help" in request.options:
        print(USAGE)
        return 0
    folder = request.folder
    if "table" in request.options:
        return show_table(request, folder)
    grid, configs = resolve(grid_of(request))
    # as python -m does, so that rewards given as dotted paths can be modules of the working directory
    sys.path.append(os.getcwd())
    by_folder = dict(zip(map(combination_folder, grid.combinations), configs, strict=True))
    runs = cells(grid, folder)
    check_folder(folder, grid)
    check_cells(runs, [by_folder[combination_folder(cell.values)] for cell in runs])
    if "dry_run" in request.options:
        for cell in runs:
            print(shlex.join(train_command(grid, cell)))
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder) as lock:
        write_atomic(folder / "sweep.yaml", to_yaml(grid))
        run_missing(
            runs,
            lambda cell: train_command(grid, cell),
            lock,
            is_finished=lambda cell: finished(cell, by_folder[combination_folder(cell.values)]),
            write_end=lambda cell, code: write_end(cell, by_folder[combination_folder(cell.values)], code),
            summary=lambda cell: progress(grid, cell),
            gpus=request.options.get("gpus", []),
        )
        show(grid, folder)
    return 1 if any(failure(cell) for cell in runs) else 0


def train_command(grid: Grid, cell: Cell) -> list[str]:
    """Return the command line that trains one cell."""
    own = [f"--run.dir={cell.folder}", f"--run.seed={cell.seed}"]
    options = flags({**grid.fields, **cell.values})
    return [sys.executable, "-m", "fastrl.train", grid.recipe, *options, *own]


def progress(grid: Grid, cell: Cell) -> str:
    """Return each metric's first and last value as text."""
    run = read_run(cell, grid.metrics)
    metrics = grid.metrics or headline_metrics([run])
    found = quantities(run, metrics)
    return "".join(
        f" | {metric} {number(found[f'{metric} start'])} -> {number(found[f'{metric} end'])}"
        if f"{metric} end" in found
        else f" | {metric} -"
        for metric in metrics
    )


def show_table(request: SweepRequest, folder: Path) -> int:
    """Print the table of a finished or running sweep; --metric overrides its metrics."""
    others = sorted({*request.options, *request.vary, *request.fields} - {"dir", "table", "metric"})
    if request.path is not None or others:
        got = " ".join([request.path or "", *others]).strip()
        refuse("sweep", "table", "only --dir and --metric next to it", got)
    if not (folder / "sweep.yaml").is_file():
        raise FileNotFoundError(f"[sweep] dir: expected a folder with sweep.yaml, got {str(folder)!r}")
    grid = read_grid(folder / "sweep.yaml")
    show(replace(grid, metrics=request.options.get("metric", grid.metrics)), folder)
    return 0


def show(grid: Grid, folder: Path) -> None:
    """Write and print the table, missing metrics, the files' paths and the plot command."""
    table, written, missing = write_table(grid, folder)
    print(table_text(table))
    for metric in missing:
        print(f"{metric}: no finished run has it")
    for path in written:
        print(path)
    runs = "*/seed-*" if grid.vary else "seed-*"
    if any(folder.glob(f"{runs}/metrics.jsonl")):  # a pipeline's are in its stages' folders
        print(f"curves: fastrl plot {folder}/{runs}/ --out {folder / 'curves.png'}")
