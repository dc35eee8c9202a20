"""A sweep's table: one row per combination, means over seeds with intervals, saturation of rewards."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastrl.report.console import number
from fastrl.report.intervals import Interval, t_interval
from fastrl.report.plot import RunCurves
from fastrl.runtime.files import replacing
from fastrl.runtime.run import write_atomic
from fastrl.tools.sweep.numbers import possible, quantities

CAPTION = (
    "Means over the seeds of finished runs with 95 % t-intervals; n is given if not all finished runs have "
    "the number. start and end: the first and the last step with the metric. t_sat: the update at which "
    "the training reward reaches its best level, for the raw reward and its moving average (EMA). Gains are "
    "measured from step 0 to t_sat and after t_sat, strictly later or as printed in arXiv 2604.18574, where "
    "t_sat itself counts and no gain is negative. An alarm's number is the first step that raised it."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Combination:
    """The runs of a combination of values."""

    values: dict[str, str]
    """Full values by field."""
    runs: list[RunCurves]
    """Finished runs."""
    planned: int
    """Number of all runs."""
    failures: list[str]
    """One line per failed run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepTable:
    """Numbers by combination and column."""

    columns: list[str]
    rows: list[tuple[Combination, dict[str, Interval]]]

    @property
    def fields(self) -> list[str]:
        return list(self.rows[0][0].values)


def sweep_table(combinations: Sequence[Combination], metrics: Sequence[str]) -> SweepTable:
    """Build the table of finished runs; columns without any value are left out."""
    found = [[quantities(run, metrics) for run in combination.runs] for combination in combinations]
    known = {name for runs in found for run in runs for name in run}
    columns = [name for name in possible(metrics, known) if name in known]
    rows = [
        {
            name: t_interval([run[name] for run in runs if name in run])
            for name in columns
            if any(name in run for run in runs)
        }
        for runs in found
    ]
    return SweepTable(columns=columns, rows=list(zip(combinations, rows, strict=True)))


def short_values(combinations: Sequence[Combination]) -> list[dict[str, str]]:
    """Return each combination's values, paths shortened to their last part if these are distinct."""
    short: list[dict[str, str]] = [{} for _ in combinations]
    for name in combinations[0].values:
        full = [combination.values[name] for combination in combinations]
        last = [value.rstrip("/").rpartition("/")[2] for value in full]
        alike = len(set(last)) == len(set(full))
        for row, value in zip(short, last if alike else full, strict=True):
            row[name] = value
    return short


def table_cells(table: SweepTable) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows as text."""
    failed = any(combination.failures for combination, _ in table.rows)
    header = [*table.fields, "runs", *table.columns, *(["failed"] if failed else [])]
    short = short_values([combination for combination, _ in table.rows])
    rows = []
    for values, (combination, found) in zip(short, table.rows, strict=True):
        done = len(combination.runs)
        runs = f"{done}" if done == combination.planned else f"{done} of {combination.planned}"
        numbers = [interval_text(found.get(name), done) for name in table.columns]
        failures = ["; ".join(combination.failures)] if failed else []
        rows.append([*values.values(), runs, *numbers, *failures])
    return header, rows


def interval_text(interval: Interval | None, runs: int) -> str:
    """Format a number such as `0.512 [0.48, 0.544] n=2`."""
    if interval is None:
        return "-"
    parts = [number(interval.mean)]
    if interval.low is not None and interval.high is not None and interval.low < interval.high:
        parts.append(f"[{number(interval.low)}, {number(interval.high)}]")
    return " ".join([*parts, f"n={interval.n}"] if interval.n != runs else parts)


def table_text(table: SweepTable) -> str:
    """Return the table for a terminal: a block per column, with a line per combination."""
    header, rows = table_cells(table)
    keys = len(table.fields)
    labels = [", ".join(f"{name}={row[place]}" for place, name in enumerate(table.fields)) for row in rows]
    width = max(map(len, labels))
    blocks = []
    for place in range(keys, len(header)):
        lines = [f"  {label:<{width}}  {row[place]}" for label, row in zip(labels, rows, strict=True)]
        blocks.append("\n".join([header[place], *(line.rstrip() for line in lines)]))
    return "\n".join(blocks)


def write_markdown(table: SweepTable, path: Path) -> None:
    header, rows = table_cells(table)
    lines = [header, ["---"] * len(header), *rows]
    text = "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
    write_atomic(path, f"{text}\n{CAPTION}\n")


def write_csv(table: SweepTable, path: Path) -> None:
    """Write all numbers in full precision: mean, interval and n per column."""
    parts = ("", " low", " high", " n")
    header = [
        *table.fields,
        "planned",
        "finished",
        "failed",
        *(f"{c}{p}" for c in table.columns for p in parts),
    ]
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for combination, found in table.rows:
            row: list[object] = [*combination.values.values(), combination.planned, len(combination.runs)]
            row.append("; ".join(combination.failures))
            for column in table.columns:
                at = found.get(column)
                row += ["", "", "", 0] if at is None else [at.mean, at.low, at.high, at.n]
            writer.writerow(row)
