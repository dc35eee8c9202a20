"""Runs a function in a process forked from one that has imported everything: a fresh interpreter
takes longer to import than a test may take."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["fastrl.train", "peft", "rank_processes"])
TIMEOUT_S = 400


@dataclass(frozen=True)
class Ended:
    """Its exit code, -9 after SIGKILL, and what it wrote to stdout and stderr."""

    code: int
    output: str


class Forked:
    """A running process with as many threads as this one; its exit code is what the function returns, 1 if
    it raises."""

    def __init__(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.log = tempfile.NamedTemporaryFile("r", encoding="utf-8", errors="replace")  # noqa: SIM115
        place = self.log.name, str(cwd or Path.cwd()), {**os.environ, **(environment or {})}
        self.process = CONTEXT.Process(
            target=_call, args=(function, arguments, torch.get_num_threads(), *place)
        )
        self.process.start()

    def ended(self) -> Ended:
        """Wait for its end."""
        self.process.join(TIMEOUT_S)
        if (code := self.process.exitcode) is None:
            self.process.kill()
        output = self.log.read()
        assert code is not None, output
        return Ended(code, output)


def run_forked(function: Callable[..., Any], *arguments: Any, **place: Any) -> Ended:
    """Run function(*arguments), both picklable, in a process of its own to its end."""
    return Forked(function, *arguments, **place).ended()


def _call(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    num_threads: int,
    log: str,
    cwd: str,
    environment: Mapping[str, str],
) -> None:
    torch.set_num_threads(num_threads)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    file = os.open(log, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(file, stream)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    sys.exit(function(*arguments))
