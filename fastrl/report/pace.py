"""Rate and estimated time left, from counts and the clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Activity:
    """A snapshot of work in progress."""

    doing: str = ""
    """Current activity; printable."""
    done: int | None = None
    """Units done; None: unchanged since the last log."""
    total: int | None = None


class Pace:
    """Measures units per second.

    Args:
        unit: name of the counted unit, singular.
        clock: returns seconds.
    """

    def __init__(self, unit: str, clock: Callable[[], float] = time.perf_counter) -> None:
        self.unit, self.clock = unit, clock
        self.started = self.since = clock()
        self.first: int | None = None

    def begin(self, done: int) -> None:
        """Start measuring at `done` units; earlier units and time don't count."""
        self.first, self.since = done, self.clock()

    def text(self, done: int, total: int | None) -> list[str]:
        """Return texts such as "about 40s to go", "3.1 steps/s", "12s so far"; unknown ones are left out."""
        elapsed, fresh = self.clock() - self.since, done - (done if self.first is None else self.first)
        so_far = f"{duration(self.clock() - self.started)} so far"
        if fresh <= 0 or elapsed <= 0:
            return [so_far]
        rate = fresh / elapsed
        spelled = f"{rate:.3g} {self.unit}s/s" if rate >= 1 else f"{1 / rate:.3g}s/{self.unit}"
        left = [] if total is None or done >= total else [f"about {duration((total - done) / rate)} to go"]
        return [*left, spelled, so_far]


def duration(seconds: float) -> str:
    """Format as 4s, 1m 5s or 1h 2m."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes}m" if hours else f"{minutes}m {rest}s" if minutes else f"{rest}s"
