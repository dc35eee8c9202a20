"""Results of a sweep: metrics by combination, and the table's files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fastrl.config import PipelineConfig, RlConfig
from fastrl.config.load import read_stored
from fastrl.report.plot import RunCurves
from fastrl.runtime.run import read_metrics
from fastrl.tools.sweep.cells import Cell, cells, exit_code_of, failure, value_text
from fastrl.tools.sweep.grid import Grid
from fastrl.tools.sweep.numbers import headline_metrics
from fastrl.tools.sweep.table import (
    Combination,
    SweepTable,
    sweep_table,
    write_csv,
    write_markdown,
)


def runs_by_combination(grid: Grid, folder: Path) -> list[Combination]:
    """Return the runs that ended, by combination."""
    by_place: dict[Path, list[Cell]] = {}
    for cell in cells(grid, folder):
        by_place.setdefault(cell.folder.parent, []).append(cell)
    return [combination(of, grid.metrics) for of in by_place.values()]


def combination(runs: Sequence[Cell], metrics: Sequence[str]) -> Combination:
    failures = {cell.seed: failure(cell) for cell in runs}
    return Combination(
        values={name: value_text(value) for name, value in runs[0].values.items()},
        runs=[read_run(cell, metrics) for cell in runs if exit_code_of(cell) == 0],
        planned=len(runs),
        failures=[f"seed {seed}, {why}" for seed, why in failures.items() if why is not None],
    )


def read_run(cell: Cell, metrics: Sequence[str]) -> RunCurves:
    """Return a run's metrics.

    For a pipeline: those of its last RL stage, or else its last stage, and STAGE.METRIC of the others.
    """
    pipeline = cell.folder / "pipeline.yaml"
    if not pipeline.exists():
        return RunCurves(cell.name, lines_of(cell.folder))
    config = read_stored(pipeline)
    assert isinstance(config, PipelineConfig)
    rl = [name for name, stage in config.stages.items() if isinstance(stage, RlConfig)]
    lines = []
    for metric in metrics:
        stage, _, name = metric.partition(".")
        if stage in config.stages:
            logged = lines_of(cell.folder / stage)
            lines += [{"step": line["step"], metric: line[name]} for line in logged if name in line]
    return RunCurves(cell.name, lines + lines_of(cell.folder / [*config.stages, *rl][-1]))


def lines_of(folder: Path) -> list[dict[str, float]]:
    """Return a stage's lines of metrics.jsonl; none without the file."""
    file = folder / "metrics.jsonl"
    return read_metrics(file) if file.exists() else []


def write_table(grid: Grid, folder: Path) -> tuple[SweepTable, list[Path], list[str]]:
    """Write table.md and table.csv.

    Returns: the table, the written files, and the metrics of the grid that no finished run has.
    """
    combinations = runs_by_combination(grid, folder)
    runs = [run for combined in combinations for run in combined.runs]
    table = sweep_table(combinations, grid.metrics or headline_metrics(runs))
    write_markdown(table, folder / "table.md")
    write_csv(table, folder / "table.csv")
    logged = {name for run in runs for line in run.lines for name, value in line.items() if value is not None}
    missing = [metric for metric in grid.metrics if runs and metric not in logged]
    return table, [folder / "table.md", folder / "table.csv"], missing
