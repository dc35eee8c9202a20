"""Text of models, logs and folders on a terminal: nothing of it may move the cursor or change a colour."""

from __future__ import annotations

import os
from pathlib import Path

from rich.cells import cell_len, set_cell_size

TAIL_BYTES = 4096


def printable(text: str) -> str:
    """Return the text with white space as single blanks and every other character that can't be seen (escape,
    bell, direction marks, half surrogates) as a dot; an escape sequence so loses what makes it one."""
    return "".join(each if each.isprintable() else "·" for each in " ".join(text.split()))


def fitted(text: str, width: int) -> str:
    """Return the text in at most `width` columns of a terminal, the last one an ellipsis where it was cut."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, width - 1) + "…" if width > 1 else "…"[:width]


def last_line(path: Path) -> str:
    """Return the last line of a file that is being written, printable, of its last 4 KiB; "" without one."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").split("\n")[:-1]
    except FileNotFoundError:
        return ""
    return printable(next((line for line in reversed(lines) if line.strip()), ""))
