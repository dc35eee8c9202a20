"""Output of fastrl eval: tables on the console, results.json."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fastrl.methods.rltr.transferability import TransferResult
from fastrl.runtime.run import environment, write_atomic


def show_metrics(title: str, metrics: dict[str, float]) -> None:
    table = Table(title=title, title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("95 % interval over problems", justify="right")
    for name, value in metrics.items():
        if name.endswith(("/low", "/high")):
            continue
        low, high = metrics.get(f"{name}/low"), metrics.get(f"{name}/high")
        table.add_row(name, f"{value:.4g}", "" if low is None or high is None else f"{low:.3f} to {high:.3f}")
    Console().print(table)


def show_transfer(receiver: str, results: dict[str, TransferResult]) -> None:
    table = Table(title=f"transferability to {receiver}", title_justify="left")
    table.add_column("tau", justify="right")
    for name in results:
        table.add_column(name.replace("_", " "), justify="right")
    some = next(iter(results.values()))
    for i, tau in enumerate(some.taus):
        table.add_row(f"{tau:g}", *(f"{result.success[i]:.3f}" for result in results.values()))
    table.add_section()
    table.add_row("AUC", *(f"{r.auc:.3f} ({r.low:.3f} to {r.high:.3f})" for r in results.values()))
    table.add_row("unfinished", *(f"{result.unfinished:.3f}" for result in results.values()))
    Console().print(table)


def show_faithfulness(title: str, metrics: Mapping[str, float]) -> None:
    """Print one table of faithfulness and, if measured, one of diversity."""
    for section in ("faithfulness", "diversity"):
        own = {name: value for name, value in metrics.items() if name.startswith(f"{section}/")}
        if own:
            show_metrics(
                f"{section}, {title}", {name.partition("/")[2]: value for name, value in own.items()}
            )


def results(checkpoint: str, options: Any, found: Mapping[str, Any], out: Path | None) -> dict[str, Any]:
    """Return the content of results.json: options, results, environment; write it unless `out` is None."""
    report = {
        "checkpoint": checkpoint,
        "options": dataclasses.asdict(options),
        **found,
        "environment": environment(),
    }
    if out is not None:
        write_atomic(out / "results.json", json.dumps(report, indent=2) + "\n")
    return report
