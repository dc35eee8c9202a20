"""Skips tests that need the sandbox if it can't run here, with the reason."""

from pathlib import Path

import pytest

from fastrl.grading.programs.runner import sandbox_missing

MISSING = sandbox_missing()
needs_sandbox = pytest.mark.skipif(MISSING is not None, reason=f"no sandbox for programs: {MISSING}")


def descendants(pid: int) -> list[int]:
    """Of a host process, by parent numbers."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found, front = [], {pid}
    while front:
        front = {child for child, parent in parents.items() if parent in front}
        found += sorted(front)
    return found
