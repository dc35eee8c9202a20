"""Guards around a training loop: signal handlers, the watchdog, and clear errors for machine faults."""

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

from fastrl.policy.checkpoint import remove_partial
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
"""Interrupts within this many seconds count as one: Ctrl-C reaches a rank directly and through torchrun."""
CLEAR_ERRORS = (ValueError, FileNotFoundError, FloatingPointError, NotImplementedError)
"""Errors that fastrl raises with a complete message; they are not rewritten."""


class Guards:
    """Context manager of a stage's training.

    On SIGTERM, or a first SIGINT, every rank finishes the step, a checkpoint is saved, and the process exits
    with code 143 or 130. A second SIGINT ends it at once. Signals are handled only in the main thread.

    An error in the block becomes a Fault or EngineDied if memory or disk ran out or an engine failed.

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
            remove_partial(self.run.checkpoints)
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
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
        """Return True if any rank has received a signal. A collective: all ranks call it after each step."""
        received = self.ranks.sum([float(self._signal == number) for number in SIGNALS])
        self._signal = next((n for n, count in zip(SIGNALS, received, strict=True) if count), 0)
        return self._signal > 0

    def leave(self, checkpoint: Path) -> NoReturn:
        """Raise Interrupted with the signal's exit code; `checkpoint` is the one to resume from."""
        if self.run.writes:
            name = signal.Signals(self._signal).name
            say(f"{name}: stopped with the checkpoint {checkpoint}; the same command resumes")
        raise Interrupted(128 + self._signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._signal == number == signal.SIGINT and time.monotonic() - self._since > SAME_S:
            raise KeyboardInterrupt
        if not self._signal:
            again = "; a second one stops at once" if number == signal.SIGINT else ""
            say(f"{signal.Signals(number).name}: finishing the step, then saving a checkpoint{again}")
            self._signal, self._since = number, time.monotonic()

    def _explain(self, error: BaseException, trace: TracebackType | None) -> None:
        """Raise a clearer error if the cause is known; else return."""
        engine, phase = engine_of(trace, self.engines), self.run.phase
        if is_disk_full(error):
            if self.run.writes:
                remove_partial(self.run.checkpoints)
            raise disk_full(error, self.run.folder, checkpoint_bytes(self.policy, self.optimizer)) from error
        if is_out_of_memory(error):
            raise out_of_memory(error, self.config, phase, engine) from error
        if engine is not None and isinstance(error, Exception) and not isinstance(error, CLEAR_ERRORS):
            raise engine_died(error, engine, phase) from error


def say(text: str) -> None:
    print(f"fastrl: {text}", file=sys.stderr, flush=True)
