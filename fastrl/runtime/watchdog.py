"""A process that hangs is ended from within, and says where it hung."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time

HANG_CODE = 124
"""Exit code, as of timeout(1)."""
GRACE_S = 10.0
"""After the time limit, for a thread that keeps Python from running at all: then the system's timer ends the
process with code 1 and the same stacks, without the phase's name."""
STDERR = 2


class Watchdog:
    """Ends the process when a phase takes longer than timeout_s, in whatever it is stuck.

    A process that has lost another rank or its device can't be saved from within; its launcher starts it
    again (torchrun --max-restarts), and it goes on from the last checkpoint. The stacks of all threads go to
    standard error first.

    Args:
        timeout_s: seconds for a phase; 0: nothing is watched.
        rank: named in the message.
    """

    def __init__(self, timeout_s: float, rank: int = 0) -> None:
        self.timeout_s, self.rank = timeout_s, rank
        self._closed = threading.Event()
        self.enter("start")
        if timeout_s:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def enter(self, phase: str) -> None:
        """The time starts anew."""
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
            f"{self.timeout_s:g} s; this process ends with code {HANG_CODE}, and the same command goes on "
            "from the last checkpoint. Where its threads are:",
            file=sys.stderr,
            flush=True,
        )
        faulthandler.dump_traceback(file=STDERR)
        os._exit(HANG_CODE)
