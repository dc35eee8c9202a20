"""Runs a recipe again and again. Every run but the last kills itself with SIGKILL, just before it does
something to a file for the n-th time.

A death is written EVENT:END_OF_PATH:N; "*" in it stands for anything. EVENT is Python's audit event: open (to
write), os.mkdir, os.rename (the path that is renamed), shutil.rmtree.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from forked import run_forked

from fastrl.train import main


def exit_codes(recipe: Path, deaths: Sequence[str]) -> list[int]:
    """Run the recipe in its folder: once for each death, and once to the end; return the exit codes."""
    return [run_forked(run, str(recipe), death, cwd=recipe.parent).code for death in [*deaths, None]]


def run(recipe: str, death: str | None) -> int:
    if death is not None:
        event, end, calls = death.split(":")
        die_at(event, end, int(calls))
    return main([recipe])


def die_at(event: str, end: str, calls: int) -> None:
    """From now on this process kills itself before the n-th such event."""
    left = calls

    def hook(name, arguments):
        nonlocal left
        if name != event or not fnmatchcase(str(arguments[0]), f"*{end}"):
            return
        if name == "open" and not writes(*arguments[1:]):
            return
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def writes(mode: str | None, flags: int) -> bool:
    """Return whether a file is opened to write, with open's mode or os.open's flags."""
    return bool(flags & (os.O_WRONLY | os.O_RDWR)) if mode is None else mode[0] in "wax"
