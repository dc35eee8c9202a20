"""Writes live.json, the current state of a running stage; deleted when the stage ends."""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from threading import Event, Thread

import torch

from fastrl.report.follow import LIVE
from fastrl.runtime.run import Run, write_atomic

EVERY_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """The state of a running stage."""

    pid: int
    doing: str
    done: int
    total: int | None
    unit: str
    memory_gib: float
    """Peak host memory of the process."""
    device_gib: float
    """Peak GPU memory reserved by the process."""


class Pulse:
    """Writes live.json from its own thread, about once per second, until it is closed.

    Args:
        state: returns the state of the stage.
    """

    def __init__(self, run: Run, state: Callable[[], Live]) -> None:
        self.path, self.state, self.stopped = run.folder / LIVE, state, Event()
        write_atomic(self.path, json.dumps(asdict(state())) + "\n")
        self.thread = Thread(target=self._beat, daemon=True, name="pulse")
        self.thread.start()

    def close(self) -> None:
        self.stopped.set()
        self.thread.join()
        self.path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self.stopped.wait(EVERY_S):
            try:
                write_atomic(self.path, json.dumps(asdict(self.state())) + "\n")
            except OSError:  # the stage itself reports a full disk
                continue


def live(doing: str, done: int, total: int | None, unit: str) -> Live:
    """Return the state of this process, with its memory."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB; bytes on a Mac
    initialised = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    device = torch.cuda.max_memory_reserved() if initialised else 0
    return Live(
        pid=os.getpid(), doing=doing, done=done, total=total, unit=unit,
        memory_gib=peak / (2**30 if sys.platform == "darwin" else 2**20), device_gib=device / 2**30,
    )  # fmt: skip
