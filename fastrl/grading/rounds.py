"""Time limits in a batch: a slice for every task, then equal shares of a budget for those that need more."""

from __future__ import annotations

import time
from collections.abc import Callable

FIRST_SLICE_S = 0.25
"""What every task gets, however many of a batch hang."""


class Rounds:
    """The time limit of each round in which the rest of a batch is tried.

    Where all tasks could take their whole limit within the budget, there is one round, with that limit.
    Else every task gets a short slice first, so that a cheap one is done whatever stands next to it. Those
    that it doesn't suffice for begin again, with equal shares of what is left of the budget, up to the limit,
    until a share is no longer than the one before. So N tasks take at most
    N * FIRST_SLICE_S / num_workers + budget_s, and no task more than another because it comes first.

    Args:
        limit_s: of one task.
        budget_s: of all rounds after the first, by the clock; at least limit_s.
        num_workers: tasks at once.
    """

    def __init__(
        self,
        limit_s: float,
        budget_s: float,
        num_workers: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit_s, self._budget_s = limit_s, max(limit_s, budget_s)
        self._num_workers, self._clock = num_workers, clock
        self._slice_s = 0.0
        self._end = 0.0

    def next_limit_s(self, num_left: int) -> float | None:
        """Return the time limit of each task in the next round; None: the budget is spent."""
        if not self._slice_s:
            enough = num_left * self._limit_s <= self._budget_s * self._num_workers
            self._slice_s = self._limit_s if enough else min(self._limit_s, FIRST_SLICE_S)
            return self._slice_s
        self._end = self._end or self._clock() + self._budget_s
        share = min(self._limit_s, (self._end - self._clock()) * self._num_workers / num_left)
        if share <= self._slice_s:
            return None
        self._slice_s = share
        return share
