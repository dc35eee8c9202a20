"""Groups of traces of one problem, and their files: the output of `fastrl groups build`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastrl.data.rows import Row, read_rows
from fastrl.methods.tracelift.rubric_dimensions import DIMENSIONS
from fastrl.runtime.files import replacing
from fastrl.types import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A piece of reasoning and its judgment."""

    text: str
    scores: Mapping[str, float]
    """0 to 10 in each of the task's five dimensions."""
    total: float
    """In [0, 1]."""
    negative_kind: str | None = None
    """Kind of flaw; None for a good trace."""
    place: tuple[int, int] | None = None
    """(start, end) of the changed characters of `text`; end = start for a deletion."""
    label: str | None = None
    """strong, acceptable, weak or bad."""
    reason: str | None = None
    """The judge's reason, one sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Traces of one problem: at least one good, several flawed."""

    problem_id: str
    task: Task
    problem: str
    reference_solution: str
    """The worked solution (math) or the program (code)."""
    answer: str
    """The gold answer (math); the program again (code)."""
    positive_pool: tuple[Trace, ...]
    negative_bank: tuple[Trace, ...]
    tests: str | None = None
    """Code: the tests as text for the reward model."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """The remaining columns of the problem's row."""


def to_row(group: Group) -> Row:
    """Return a group as a JSON row; read_groups reads it back."""
    return dataclasses.asdict(group)


def write_groups(path: Path, groups: Sequence[Group]) -> None:
    """Write a .jsonl or .parquet file atomically; read_groups reads equal groups back.

    In Parquet, `columns` is JSON text, since its rows may differ in names and types.
    """
    rows = [to_row(group) for group in groups]
    if path.suffix not in (".jsonl", ".parquet"):
        raise ValueError(f"[data] path: expected an ending among .jsonl, .parquet, got {path.name!r}")
    with replacing(path) as temporary:
        if path.suffix == ".parquet":
            import pyarrow
            import pyarrow.parquet

            flat = [row | {"columns": json.dumps(row["columns"], ensure_ascii=False)} for row in rows]
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(flat), temporary)
        else:
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            temporary.write_text("".join(lines), encoding="utf-8")


def read_groups(path: str, limit: int | None = None) -> list[Group]:
    """Read the groups of a JSONL or Parquet file.

    Raises:
        FileNotFoundError: the file does not exist.   ValueError: an invalid row; names row and field.
    """
    return [
        _group(row, f"[data] {path} row {number}") for number, row in enumerate(read_rows(path, limit), 1)
    ]


def _group(row: Row, place: str) -> Group:
    needed = (
        "problem_id",
        "task",
        "problem",
        "reference_solution",
        "answer",
        "positive_pool",
        "negative_bank",
    )
    missing = [name for name in needed if row.get(name) is None]
    if missing:
        raise ValueError(f"{place}: expected {', '.join(missing)}, got columns {', '.join(row)}")
    if row["task"] not in DIMENSIONS:
        raise ValueError(f"{place}: task: expected {' or '.join(DIMENSIONS)}, got {row['task']!r}")
    pools = {
        name: tuple(
            _trace(trace, row["task"], f"{place}, {name}[{index}]") for index, trace in enumerate(row[name])
        )
        for name in ("positive_pool", "negative_bank")
    }
    columns = row.get("columns") or {}
    return Group(
        problem_id=str(row["problem_id"]),
        task=row["task"],
        problem=row["problem"],
        reference_solution=row["reference_solution"],
        answer=str(row["answer"]),
        positive_pool=pools["positive_pool"],
        negative_bank=pools["negative_bank"],
        tests=row.get("tests"),
        columns=json.loads(columns) if isinstance(columns, str) else columns,
    )


def _trace(value: Any, task: Task, place: str) -> Trace:
    if not isinstance(value, dict) or not isinstance(value.get("text"), str):
        raise ValueError(f"{place}: expected a trace with text, got {value!r}")
    scores, total = value.get("scores"), value.get("total")
    if isinstance(scores, dict):  # Parquet fills in nulls if rows of both tasks share the column
        scores = {name: score for name, score in scores.items() if score is not None}
    if not isinstance(scores, dict) or set(scores) != set(DIMENSIONS[task]):
        raise ValueError(f"{place}: scores: expected {', '.join(DIMENSIONS[task])}, got {scores!r}")
    for name, score in scores.items():
        if not isinstance(score, int | float) or not 0 <= score <= 10:
            raise ValueError(f"{place}: scores.{name}: expected 0 to 10, got {score!r}")
    if not isinstance(total, int | float) or not 0 <= total <= 1:
        raise ValueError(f"{place}: total: expected 0 to 1, got {total!r}")
    span = value.get("place")
    return Trace(
        text=value["text"],
        scores={name: float(scores[name]) for name in DIMENSIONS[task]},
        total=float(total),
        negative_kind=value.get("negative_kind"),
        place=None if span is None else (int(span[0]), int(span[1])),
        label=value.get("label"),
        reason=value.get("reason"),
    )
