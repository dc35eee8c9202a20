"""The sampled tokens of each request, and which requests have ended."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastrl.engine.tree.kv_pool import Ints
from fastrl.engine.tree.stopping import StopRule
from fastrl.types import FinishReason


@dataclass(frozen=True, slots=True)
class FinishedRequest:
    """Tokens of a request that has ended."""

    request_id: int
    token_ids: list[int]
    logprobs: list[float]
    reason: FinishReason


class RequestOutputs:
    """Tokens of requests 0 .. N-1; tokens after the end of a request are ignored."""

    def __init__(self, limits: Ints, stop: StopRule, tokens_per_record: int) -> None:
        """Create empty outputs.

        Args:
            limits: [N] max_new_tokens of each request.
            tokens_per_record: most tokens per request in one call of record.
        """
        self.limits, self.stop = limits, stop
        shape = (len(limits), int(limits.max(initial=0)) + tokens_per_record)
        self.tokens: NDArray[np.int32] = np.zeros(shape, dtype=np.int32)
        self.logprobs: NDArray[np.float32] = np.zeros(shape, dtype=np.float32)
        self.lengths: Ints = np.zeros(len(limits), dtype=np.int64)
        """Sampled tokens of each request; after its end the length of its last record."""
        self.followed: Ints = np.zeros(len(limits), dtype=np.int64)
        """Tokens of each request that its tree had already, which needed no decode step."""
        self.ends: Ints = np.zeros(len(limits), dtype=np.int64)
        """Length of each request when it ended; 0 while it is alive."""

    def alive(self, requests: Ints) -> NDArray[np.bool_]:
        """Return True for the requests that have not ended."""
        living: NDArray[np.bool_] = self.ends[requests] == 0
        return living

    def record(
        self, requests: Ints, ids: NDArray[np.int64], logprobs: NDArray[np.float32]
    ) -> list[FinishedRequest]:
        """Append tokens [n, w] to n requests; return those that ended with them.

        Raises:
            FloatingPointError: a log-prob is NaN.
        """
        if np.isnan(logprobs).any():
            raise FloatingPointError("[engine] logits: expected numbers, got nan; are the weights finite?")
        living = self.alive(requests)
        requests, ids, logprobs = requests[living], ids[living], logprobs[living]
        width, starts, limits = ids.shape[1], self.lengths[requests], self.limits[requests]
        columns = starts[:, None] + np.arange(width)
        self.tokens[requests[:, None], columns] = ids
        self.logprobs[requests[:, None], columns] = logprobs
        self.lengths[requests] += width
        stop = self.stop.first_stop(ids, self.tokens, requests, starts)
        stopped = (stop < width) & (starts + stop < limits)
        ends = np.where(stopped, starts + stop + 1, np.where(limits <= starts + width, limits, 0))
        self.ends[requests] = ends
        finished = []
        for request, by_stop in zip(requests[ends > 0].tolist(), stopped[ends > 0], strict=True):
            finished.append(self._finish(request, "stop" if by_stop else "length"))
        return finished

    def _finish(self, request: int, reason: FinishReason) -> FinishedRequest:
        end = int(self.ends[request])
        ids, logprobs = self.tokens[request, :end].tolist(), self.logprobs[request, :end].tolist()
        return FinishedRequest(request, ids, logprobs, reason)
