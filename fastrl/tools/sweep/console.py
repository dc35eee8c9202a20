"""A sweep's table on a terminal: where it is too wide, in parts that each begin with the combination."""

from __future__ import annotations

from typing import IO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fastrl.tools.sweep.table import CAPTION, SweepTable, cells

IN_A_FILE, WIDEST = 160, 48


def print_table(table: SweepTable, file: IO[str] | None = None) -> None:
    """Draw it in as many parts as it takes; in a file, which has no width, lines of IN_A_FILE characters."""
    console = Console(file=file)
    if not console.is_terminal:
        console = Console(file=file, width=IN_A_FILE)
    header, rows = cells(table)
    rows = [
        [broken(cell) if name in table.columns else cell for name, cell in zip(header, row, strict=True)]
        for row in rows
    ]
    widths = [
        min(WIDEST, max(len(line) for cell in [*name.split(), *column] for line in cell.splitlines()))
        for name, *column in zip(header, *rows, strict=True)
    ]
    keys = list(range(len(table.fields) + 1))
    for part in parts(keys, widths, console.width):
        drawn = Table(show_lines=True)
        for place in part:
            drawn.add_column(
                header[place],
                justify="right" if header[place] in ("runs", *table.columns) else "left",
                min_width=widths[place],
                max_width=WIDEST,
            )
        for row in rows:
            drawn.add_row(*(Text(row[place]) for place in part))  # [data] in an error is no markup
        console.print(drawn)
    console.print(Text(CAPTION))


def broken(cell: str) -> str:
    """The interval on a line of its own, below the mean."""
    return cell.replace(" [", "\n[")


def parts(keys: list[int], widths: list[int], width: int) -> list[list[int]]:
    """Places of the columns of each part: the keys, and as many others as fit, at least one."""
    border = 3
    room = width - 1 - sum(widths[key] + border for key in keys)
    found: list[list[int]] = [[]]
    left = room
    for place in range(len(keys), len(widths)):
        if found[-1] and widths[place] + border > left:
            found.append([])
            left = room
        found[-1].append(place)
        left -= widths[place] + border
    return [keys + part for part in found]
