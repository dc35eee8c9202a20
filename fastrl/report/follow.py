"""Reads files of a run in progress: new complete lines, and live.json."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import IO, Any

Line = dict[str, Any]
LIVE = "live.json"
"""State of a running stage; see pulse."""


class FollowedLines:
    """The lines of a growing JSONL file. Each `read` parses only new lines; a replaced file, such as the
    metrics of a resumed run, is read again from the start."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[Line] = []
        self._offset, self._inode = 0, 0

    def read(self) -> list[Line]:
        """Return all complete lines so far; none if the file does not exist."""
        try:
            with self.path.open("rb") as file:
                self._take(file)
        except FileNotFoundError:
            self.lines, self._offset = [], 0
        return self.lines

    def _take(self, file: IO[bytes]) -> None:
        found = os.fstat(file.fileno())
        inode, size = found.st_ino, found.st_size
        if inode != self._inode or size < self._offset:
            self.lines, self._offset, self._inode = [], 0, inode
        file.seek(self._offset)
        whole, line_break, _ = file.read().rpartition(b"\n")
        self.lines += [json.loads(line) for line in whole.split(b"\n") if line.strip()]
        self._offset += len(whole) + len(line_break)


def read_live(folder: Path) -> tuple[dict[str, Any], float] | None:
    """Return live.json and the seconds since it was written; None if there is no live.json."""
    path = folder / LIVE
    try:
        return json.loads(path.read_text()), max(0.0, time.time() - path.stat().st_mtime)
    except FileNotFoundError:
        return None
