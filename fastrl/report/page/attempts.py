"""Table of failed attempts at hard problems, plain or with the proposed interventions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastrl.data.rows import read_rows
from fastrl.report.page.blocks import Block, Texts, numbers, outcome_of, table, text

Row = Mapping[str, Any]
PROPOSALS = (
    ("problem", "Problem", "count"),
    ("attempt", "Attempt", "count"),
    ("sample", "Sample", "count"),
    ("outcome", "Outcome", "outcome"),
    ("location", "Error at", "count"),
    ("success", "Success", "number"),
    ("gain", "Gain", "number"),
    ("about", "Question", "text"),
)
ATTEMPTS = (
    ("problem", "Problem", "count"),
    ("sample", "Sample", "count"),
    ("outcome", "Answer", "outcome"),
    ("num_correct", "Solved", "count"),
    ("length", "Tokens", "count"),
    ("about", "Question", "text"),
)


def attempt_table(folder: Path) -> dict[str, Any] | None:
    """Build the table of interventions with their attempts; None if the stage has not ended."""
    problems = {row["problem"]: row for row in rows_of(folder / "attempts.jsonl")}
    texts = Texts()
    rows = [
        {name: row[name] for name, _, _ in PROPOSALS if row.get(name) is not None}
        | {
            "outcome": outcome_of(row["outcome"]),
            "about": texts.place(problems[row["problem"]]["question"]),
            "blocks": proposal_blocks(problems[row["problem"]], row),
        }
        for row in (rows_of(folder / "interventions.jsonl") if problems else [])
    ]
    facets = [
        ("outcome", "Outcome", {"selected": "r"}),
        ("problem", "Problem", {}),
        ("location", "Error at", {}),
    ]
    return table_data("Interventions", PROPOSALS, facets, rows, texts)


def proposal_blocks(problem: Row, row: Row) -> list[Block]:
    rates = {
        "success from the prefix": row["success_prefix"],
        "success with the original step": row["success_original"],
        "success with the intervention": row["success"],
        "gain": row["gain"],
    }
    steps = problem["attempts"][row["attempt"]]
    return [
        text("Question", problem["question"], note=f"gold answer {problem['solution']}"),
        {"kind": "steps", "title": "Attempt", "steps": marked_steps(steps, row["location"], row["content"])},
        table("Success rates", ["", "value"], numbers(rates)),
        text("The model's check of the attempt", row["check"]),
    ]


def marked_steps(steps: list[str], location: int | None, content: str | None) -> list[dict[str, Any]]:
    """Label each step kept, error (the first wrong one) or after, and insert the intervention as new after
    the error."""
    found: list[dict[str, Any]] = []
    for number, step in enumerate(steps, 1):
        part = "kept" if location is None or number < location else "error" if number == location else "after"
        found.append({"number": number, "part": part, "text": step})
        if number == location:
            found.append({"number": number, "part": "new", "text": content or ""})
    return found


def hard_table(folder: Path) -> dict[str, Any] | None:
    """Build the table of hard.jsonl, one row per attempt; None if the stage has not ended."""
    texts = Texts()
    rows = [
        {
            "problem": index,
            "sample": attempt["sample"],
            "outcome": outcome_of(attempt["verdict"]),
            "num_correct": problem["num_correct"],
            "length": attempt["num_tokens"],
            "about": texts.place(problem["question"]),
            "blocks": [
                text("Question", problem["question"], note=f"gold answer {problem['solution']}"),
                text("Attempt", attempt["text"], note=f"{attempt['num_tokens']} tokens"),
                text("Reference", problem["reference"]),
            ],
        }
        for index, problem in enumerate(rows_of(folder / "hard.jsonl"))
        for attempt in problem["attempts"]
    ]
    return table_data(
        "Failed attempts", ATTEMPTS, [("outcome", "Answer", {}), ("problem", "Problem", {})], rows, texts
    )


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Read a file's rows; none if the file is missing or empty."""
    return read_rows(str(path)) if path.is_file() and path.stat().st_size else []


def table_data(
    name: str,
    columns: Any,
    facets: list[tuple[str, str, dict[str, str]]],
    rows: list[dict[str, Any]],
    texts: Texts,
) -> dict[str, Any] | None:
    """Return a table as the page's data; None without rows."""
    if not rows:
        return None
    return {
        "name": name,
        "columns": [{"key": key, "label": label, "kind": kind} for key, label, kind in columns],
        "facets": [{"key": key, "label": label, "keys": keys} for key, label, keys in facets],
        "texts": texts.texts,
        "rows": rows,
        "total": len(rows),
        "note": "",
    }
