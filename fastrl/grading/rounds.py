"""Time limits in a batch: a short slice for each task, then equal shares of a budget for slower ones."""

from __future__ import annotations

import time
from collections.abc import Callable

FIRST_SLICE_S = 0.25
"""Seconds that every task gets, however many tasks of the batch hang."""


class Rounds:
    """Time limits of the rounds in which the tasks of a batch are tried.

    If the budget covers the full limit of each task, there is one round with that limit. Otherwise each task
    first gets a short slice, so that cheap tasks finish whatever the others do. The unfinished ones start
    again with equal shares of the remaining budget, up to the limit, until a share is no longer than the one
    before. So N tasks take at most N * FIRST_SLICE_S / num_workers + budget_s, and no task gets more time
    than another because it comes first.

    Args:
        limit_s: seconds for one task.
        budget_s: wall-clock seconds for all rounds after the first; raised to limit_s if lower.
        num_workers: tasks that run at once.
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
