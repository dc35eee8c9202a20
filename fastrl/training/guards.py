"""What stands around a training loop: signals to leave, the watchdog, words for what the machine lacks."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn

import torch

from fastrl.policy.checkpoint import drop_remains
from fastrl.runtime.context import Context
from fastrl.runtime.errors import Interrupted
from fastrl.runtime.watchdog import Watchdog
from fastrl.training.faults import (
    checkpoint_bytes,
    disk_full,
    engine_died,
    engine_of,
    is_disk_full,
    is_out_of_memory,
    out_of_memory,
)

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SAME_S = 2.0
"""Interrupts this close are one: a terminal's Ctrl-C reaches a rank from torchrun, too."""
MENDABLE = (ValueError, FileNotFoundError, FloatingPointError, NotImplementedError)
"""What fastrl raises with a message that says all: these pass as they are."""


class Guards:
    """Open while a stage trains.

    SIGTERM, or SIGINT once: the step is finished on every rank, a checkpoint written, and the process ends
    with code 143 or 130. A second SIGINT ends it at once. Signals are heard in the main thread alone.

    An error that comes out of the block is told in words where the machine was short of memory or disk, or an
    engine failed.

    Args:
        engines: the stage's engines, by name.
    """

    def __init__(
        self, context: Context[Any], policy: Any, optimizer: torch.optim.Optimizer,
        engines: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.run, self.config, self.ranks = context.run, context.config, context.ranks
        self.policy, self.optimizer, self.engines = policy, optimizer, engines or {}
        self._signal, self._since = 0, 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Guards:
        if self.run.writes:
            drop_remains(self.run.checkpoints)
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._told) for number in SIGNALS}
        self.run.watchdog = Watchdog(self.config.run.hang_timeout_s, self.ranks.rank)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.run.watchdog is not None:
            self.run.watchdog.close()
            self.run.watchdog = None
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if error is not None:
            self._explain(error, trace)

    def leaving(self) -> bool:
        """Whether any rank was told to end; all ranks ask after the same step, and get the same answer."""
        told = self.ranks.sum([float(self._signal == number) for number in SIGNALS])
        self._signal = next((n for n, count in zip(SIGNALS, told, strict=True) if count), 0)
        return self._signal > 0

    def leave(self, checkpoint: Path) -> NoReturn:
        """End with the signal's code; `checkpoint` is where the next start goes on."""
        if self.run.writes:
            name = signal.Signals(self._signal).name
            say(f"{name}: left with the checkpoint {checkpoint}; the same command goes on")
        raise Interrupted(128 + self._signal)

    def _told(self, number: int, frame: FrameType | None) -> None:
        if self._signal == number == signal.SIGINT and time.monotonic() - self._since > SAME_S:
            raise KeyboardInterrupt
        if not self._signal:
            again = "; once more ends at once" if number == signal.SIGINT else ""
            say(f"{signal.Signals(number).name}: the step is finished, then a checkpoint written{again}")
            self._signal, self._since = number, time.monotonic()

    def _explain(self, error: BaseException, trace: TracebackType | None) -> None:
        """Raises what the error comes to, where it can be told."""
        engine, phase = engine_of(trace, self.engines), self.run.phase
        if is_disk_full(error):
            if self.run.writes:
                drop_remains(self.run.checkpoints)
            raise disk_full(error, self.run.folder, checkpoint_bytes(self.policy, self.optimizer)) from error
        if is_out_of_memory(error):
            raise out_of_memory(error, self.config, phase, engine) from error
        if engine is not None and isinstance(error, Exception) and not isinstance(error, MENDABLE):
            raise engine_died(error, engine, phase) from error


def say(text: str) -> None:
    print(f"fastrl: {text}", file=sys.stderr, flush=True)
