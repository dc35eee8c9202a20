"""Reads a run folder into the page's data: each stage's numbers, configuration and table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastrl.config.load import read_yaml
from fastrl.report.page.attempts import attempt_table, hard_table
from fastrl.report.page.completions import completion_table
from fastrl.report.page.curves import curves, tiles
from fastrl.runtime.run import read_metrics

Data = dict[str, Any]
COUNTS = ("funnel.json", "counts.json", "budget.json", "eval.json")
"""Files of nested numbers that stages write in addition to metrics."""
MOST_TILES = 12


def report_data(run_dir: str | Path, max_rows: int) -> Data:
    """Return everything that the page shows, JSON-serialisable.

    {"title", "waiting": [stages of a pipeline that have not begun], "stages": [{"name", "kind", "tiles",
    "curves", "table", "tables", "config", "environment"}]}

    Args:
        run_dir: folder of a stage, or of a pipeline with its stages' folders inside.
        max_rows: largest number of completions per stage; 0: all. See chosen_steps.
    Raises:
        FileNotFoundError: run_dir is neither a run folder nor a pipeline's.
    """
    folder = Path(run_dir)
    title = folder.resolve().name
    if (folder / "config.yaml").is_file():
        return {"title": title, "waiting": [], "stages": [stage_data(folder, title, max_rows)]}
    if not (folder / "pipeline.yaml").is_file():
        raise FileNotFoundError(
            f"[report] RUN: expected a folder with config.yaml or pipeline.yaml, got {str(run_dir)!r}"
        )
    stages = [name for name, part in read_yaml(folder / "pipeline.yaml").items() if is_stage(part)]
    begun = [name for name in stages if (folder / name / "config.yaml").is_file()]
    return {
        "title": title,
        "waiting": [name for name in stages if name not in begun],
        "stages": [stage_data(folder / name, name, max_rows) for name in begun],
    }


def is_stage(part: Any) -> bool:
    return isinstance(part, Mapping) and "stage" in part


def stage_data(folder: Path, name: str, max_rows: int) -> Data:
    config = read_yaml(folder / "config.yaml")
    metrics = folder / "metrics.jsonl"
    lines = read_metrics(metrics) if metrics.is_file() else []
    tables = [
        {"title": path.stem, "rows": list(flat(read_json(path)).items())}
        for path in (folder / name for name in COUNTS)
        if path.is_file()
    ]
    return {
        "name": name,
        "kind": config["stage"],
        # a stage without training shows its counts
        "tiles": tiles(lines) if "train" in config else count_tiles(tables) or tiles(lines),
        "curves": curves(lines, config),
        "table": table_of(folder, config, max_rows),
        "tables": tables,
        "config": list(flat(config).items()),
        "environment": list(flat(read_json(folder / "environment.json")).items()),
    }


def count_tiles(tables: list[Data]) -> list[Data]:
    """Return the first counts of a stage without steps as tiles."""
    found = [(name, value) for table in tables[:1] for name, value in table["rows"] if isinstance(value, int)]
    return [
        {"name": name.replace("_", " "), "value": value, "unit": ""} for name, value in found[:MOST_TILES]
    ]


def table_of(folder: Path, config: Mapping[str, Any], max_rows: int) -> Data | None:
    """Return the stage's table; None if it writes none."""
    if config["stage"] == "intervene":
        return attempt_table(folder)
    if config["stage"] == "hard_set":
        return hard_table(folder)
    return completion_table(folder, config, max_rows)


def flat(values: Any, path: str = "") -> dict[str, Any]:
    """Flatten nested values under dotted names; a list is one value."""
    if not isinstance(values, Mapping):
        return {path: values}
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{path}.{name}" if path else str(name))
    return found


def read_json(path: Path) -> Any:
    return json.loads(path.read_text()) if path.is_file() else {}
