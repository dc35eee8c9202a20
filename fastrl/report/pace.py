"""How fast work goes and how long the rest will take, out of counts and the clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Glance:
    """Work as it stands now, seen from outside."""

    doing: str = ""
    """What goes on; printable."""
    done: int | None = None
    """Units that are done; None: as last logged."""
    total: int | None = None


class Pace:
    """Units per second since counting began.

    Args:
        unit: of what is counted, in the singular.
        clock: seconds.
    """

    def __init__(self, unit: str, clock: Callable[[], float] = time.perf_counter) -> None:
        self.unit, self.clock = unit, clock
        self.started = self.since = clock()
        self.first: int | None = None

    def begin(self, done: int) -> None:
        """Count from here on: what is done already took no time, and what passed until now took no unit."""
        self.first, self.since = done, self.clock()

    def text(self, done: int, total: int | None) -> list[str]:
        """about 40s to go, 3.1 steps/s, 12s so far; the first two as far as they can be known."""
        elapsed, fresh = self.clock() - self.since, done - (done if self.first is None else self.first)
        so_far = f"{duration(self.clock() - self.started)} so far"
        if fresh <= 0 or elapsed <= 0:
            return [so_far]
        rate = fresh / elapsed
        spelled = f"{rate:.3g} {self.unit}s/s" if rate >= 1 else f"{1 / rate:.3g}s a {self.unit}"
        left = [] if total is None or done >= total else [f"about {duration((total - done) / rate)} to go"]
        return [*left, spelled, so_far]


def duration(seconds: float) -> str:
    """4s, 1m 5s, 1h 2m."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes}m" if hours else f"{minutes}m {rest}s" if minutes else f"{rest}s"
