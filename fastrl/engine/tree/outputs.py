"""What every request has sampled so far, and which have ended."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastrl.engine.tree.kv_pool import Ints
from fastrl.engine.tree.stopping import StopRule
from fastrl.types import FinishReason


@dataclass(frozen=True, slots=True)
class Finished:
    """Tokens of one request, as it ended."""

    row: int
    token_ids: list[int]
    logprobs: list[float]
    reason: FinishReason


class Book:
    """Tokens of requests 0 .. N-1; a request that has ended takes no more."""

    def __init__(self, limits: Ints, stop: StopRule, most_at_once: int) -> None:
        """limits: [N] most tokens of each; most_at_once: of one record."""
        self.limits, self.stop = limits, stop
        shape = (len(limits), int(limits.max(initial=0)) + most_at_once)
        self.tokens: NDArray[np.int32] = np.zeros(shape, dtype=np.int32)
        self.logprobs: NDArray[np.float32] = np.zeros(shape, dtype=np.float32)
        self.lengths: Ints = np.zeros(len(limits), dtype=np.int64)
        """Of those alive; ended requests keep the length of their last record."""
        self.ends: Ints = np.zeros(len(limits), dtype=np.int64)
        """Length of each request when it ended; 0 while it is alive."""

    def alive(self, rows: Ints) -> NDArray[np.bool_]:
        living: NDArray[np.bool_] = self.ends[rows] == 0
        return living

    def record(self, rows: Ints, ids: NDArray[np.int64], logprobs: NDArray[np.float32]) -> list[Finished]:
        """The next tokens [n, w] of these requests; returns those that ended with them.

        Raises:
            FloatingPointError: a log-prob is NaN.
        """
        if np.isnan(logprobs).any():
            raise FloatingPointError("[engine] logits: expected numbers, got nan; are the weights finite?")
        living = self.alive(rows)
        rows, ids, logprobs = rows[living], ids[living], logprobs[living]
        width, starts, limits = ids.shape[1], self.lengths[rows], self.limits[rows]
        columns = starts[:, None] + np.arange(width)
        self.tokens[rows[:, None], columns] = ids
        self.logprobs[rows[:, None], columns] = logprobs
        self.lengths[rows] += width
        stop = self.stop.first_stop(ids, self.tokens, rows, starts)
        stopped = (stop < width) & (starts + stop < limits)
        ends = np.where(stopped, starts + stop + 1, np.where(limits <= starts + width, limits, 0))
        self.ends[rows] = ends
        finished = []
        for row, by_stop in zip(rows[ends > 0].tolist(), stopped[ends > 0], strict=True):
            finished.append(self._finish(row, "stop" if by_stop else "length"))
        return finished

    def cancel(self, rows: Ints) -> list[Finished]:
        """End those of these requests that are alive, with what they have."""
        living = np.unique(rows[self.alive(rows)])
        self.ends[living] = self.lengths[living]
        return [self._finish(row, "cancelled") for row in living.tolist()]

    def _finish(self, row: int, reason: FinishReason) -> Finished:
        end = int(self.ends[row])
        return Finished(row, self.tokens[row, :end].tolist(), self.logprobs[row, :end].tolist(), reason)
