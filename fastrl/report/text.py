"""Makes untrusted text safe for a terminal: no control or escape characters."""

from __future__ import annotations

import os
from pathlib import Path

from rich.cells import cell_len, set_cell_size

TAIL_BYTES = 4096


def printable(text: str) -> str:
    """Return the text with whitespace runs as single spaces, and every other non-printable character (escape,
    bell, direction marks, lone surrogates) as a dot."""
    return "".join(char if char.isprintable() else "·" for char in " ".join(text.split()))


def fitted(text: str, width: int) -> str:
    """Cut the text to at most `width` terminal columns, ending in an ellipsis if it was cut."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, width - 1) + "…" if width > 1 else "…"[:width]


def last_line(path: Path) -> str:
    """Return the last complete, non-empty line within a file's last 4 KiB, printable; "" if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").split("\n")[:-1]
    except FileNotFoundError:
        return ""
    return printable(next((line for line in reversed(lines) if line.strip()), ""))
