"""A watchdog that ends a hanging process and prints the stacks of its threads."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time

HANG_CODE = 124
"""Exit code, the same as timeout(1)'s."""
GRACE_S = 10.0
"""Extra seconds before faulthandler's timer ends the process (code 1, same stacks, no phase name). It is for
a thread that never releases the GIL, so that the watchdog's own thread can't run."""
STDERR = 2


class Watchdog:
    """Timer that ends the process if a phase takes longer than timeout_s.

    It prints the stacks of all threads to standard error and exits with code 124. A process that has lost a
    rank or its device can't recover by itself: a launcher restarts it (torchrun --max-restarts), and it
    resumes from the last checkpoint.

    Args:
        timeout_s: limit of a phase, in seconds; 0: no limit.
        rank: rank to name in the message.
    """

    def __init__(self, timeout_s: float, rank: int = 0) -> None:
        self.timeout_s, self.rank = timeout_s, rank
        self._closed = threading.Event()
        self.enter("start")
        if timeout_s:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def enter(self, phase: str) -> None:
        """Start the timer of a new phase."""
        self._phase, self._deadline = phase, time.monotonic() + self.timeout_s
        if self.timeout_s:
            faulthandler.dump_traceback_later(self.timeout_s + GRACE_S, exit=True, file=STDERR)

    def close(self) -> None:
        self._closed.set()
        if self.timeout_s:
            faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        while not self._closed.wait(max(0.0, self._deadline - time.monotonic())):
            if time.monotonic() >= self._deadline:
                self._end()

    def _end(self) -> None:
        print(
            f"fastrl: [run] hang_timeout_s: phase {self._phase!r} on rank {self.rank} has taken more than "
            f"{self.timeout_s:g} s; this process exits with code {HANG_CODE}. The same command resumes from "
            "the last checkpoint. Stacks of all threads:",
            file=sys.stderr,
            flush=True,
        )
        faulthandler.dump_traceback(file=STDERR)
        os._exit(HANG_CODE)
