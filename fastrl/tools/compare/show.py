"""Prints comparisons as tables and text, and converts them to JSON values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import IO, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fastrl.report.console import number
from fastrl.tools.compare.bands import Block
from fastrl.tools.compare.findings import Comparison, Finding
from fastrl.tools.compare.pair import Difference, Same

IN_A_FILE = 160
"""Width of tables that are not printed to a terminal."""


def print_comparison(found: Comparison, file: IO[str] | None = None) -> None:
    """Print one row per metric, those that are not inside first."""
    failed = sum(finding.verdict != "inside" for finding in found.findings)
    rows = sorted(found.findings, key=lambda finding: finding.verdict == "inside")
    print_rows(
        ("", "metric", "blocks outside", "steps", "run", "band", "from the middle"),
        [row_of(finding, several=len({one.stage for one in rows}) > 1) for finding in rows],
        file,
    )
    for note in found.notes:
        print(note, file=file)
    verdict = f"drift: {failed} of {len(rows)} metrics" if failed else f"no drift: {len(rows)} metrics inside"
    print(f"{found.run} against {found.reference}: {verdict}", file=file)


def row_of(finding: Finding, several: bool) -> tuple[str, ...]:
    return (
        finding.verdict,
        f"{finding.stage}: {finding.metric}" if several else finding.metric,
        f"{finding.outside} of {finding.compared}",
        steps(finding.block),
        "-" if finding.value is None else number(finding.value),
        f"[{number(finding.band.low)}, {number(finding.band.high)}]",
        "-" if finding.verdict == "missing" else f"{finding.beyond:.2f} half widths",
    )


def steps(block: Block) -> str:
    return str(block[0]) if block[0] == block[1] else f"{block[0]}-{block[1]}"


def print_same(run: str, other: str, found: Same, file: IO[str] | None = None) -> None:
    if found.parting is None:
        print(
            f"{run} and {other}: equal bit for bit, {found.values} numbers in {found.steps} steps", file=file
        )
        return
    parting = found.parting
    print(
        f"{run} and {other} first differ at step {parting.step} of {parting.stage}, in {parting.metric}: "
        f"{parting.ours!r} and {parting.theirs!r}",
        file=file,
    )


def print_differences(run: str, other: str, found: list[Difference], file: IO[str] | None = None) -> None:
    several = len({difference.stage for difference in found}) > 1
    rows = [
        (
            "differs" if row.clear else "",
            f"{row.stage}: {row.metric}" if several else row.metric,
            number(row.ours),
            number(row.theirs),
            number(row.difference.mean),
            "-"
            if row.difference.low is None or row.difference.high is None
            else f"[{number(row.difference.low)}, {number(row.difference.high)}]",
        )
        for row in sorted(found, key=lambda row: not row.clear)
    ]
    print_rows(("", "metric", run, other, "difference", "interval"), rows, file)
    clear = sum(row.clear for row in found)
    print(f"{run} and {other}, with other seeds: {clear} of {len(found)} metrics differ clearly", file=file)


def print_rows(header: tuple[str, ...], rows: Sequence[tuple[str, ...]], file: IO[str] | None) -> None:
    console = Console(file=file)
    if not console.is_terminal:
        console = Console(file=file, width=IN_A_FILE)
    table = Table()
    for place, name in enumerate(header):
        table.add_column(name, justify="left" if place < 2 else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # Text: [data] must not be parsed as markup
    console.print(table)


def as_json(found: Comparison | Same | list[Difference], run: str, other: str) -> dict[str, Any]:
    """Return JSON values; `drift` is true if the check failed."""
    names = {"run": run, "reference": other}
    if isinstance(found, Comparison):
        return {**names, "kind": "band", "drift": found.drifted, **asdict(found), **names}
    if isinstance(found, Same):
        return {**names, "kind": "same seed", "drift": found.parting is not None, **asdict(found)}
    rows = [asdict(row) | {"clear": row.clear} for row in found]
    return {**names, "kind": "other seed", "drift": False, "differences": rows}
