"""The rule for bad gradients: which are skipped, and when training stops."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping
from typing import Any

from fastrl.config import TrainConfig

SPAN = 100
"""Number of recent optimiser steps that the rules use."""
MAX_BAD_SHARE = 0.1
"""Largest share of these that may be bad."""
MIN_NORMS = 10
"""Least number of norms for a median."""


class BadSteps:
    """Decides by the global gradient norm, equal on all ranks, whether a gradient is bad.

        bad  <=>  norm is NaN or infinite, or norm > spike_factor * median(last 100 applied norms > 0)

    The second rule needs config.spike_factor and ten norms.

    Args:
        state: `state()` of the checkpoint, so that a resumed run decides like an uninterrupted one.
    """

    def __init__(self, config: TrainConfig, state: Mapping[str, Any] | None = None) -> None:
        state = state or {}
        self.config = config
        self._norms: deque[float] = deque(state.get("norms", ()), SPAN)
        self._bad: deque[bool] = deque(state.get("bad", ()), SPAN)
        self._new = 0

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint; JSON-serialisable."""
        return {"norms": list(self._norms), "bad": list(self._bad)}

    def skips(self, norm: float, step: int) -> bool:
        """Record a gradient norm; return True if the gradient is bad and must be skipped.

        Raises:
            FloatingPointError: more than max_bad_steps in a row, or over a tenth of the last hundred, are
                bad.
        """
        reason = self._reason(norm)
        self._bad.append(reason is not None)
        if reason is None:
            self._norms.extend([norm] if norm > 0 else [])
            return False
        self._new += 1
        if self._in_a_row() > self.config.max_bad_steps or sum(self._bad) > MAX_BAD_SHARE * SPAN:
            raise FloatingPointError(
                f"[train] gradient norm is {norm:.4g} at step {step}{reason}: no weight was changed by it. "
                f"{self._in_a_row()} in a row and {sum(self._bad)} of the last {len(self._bad)} were bad; "
                f"train.max_bad_steps is {self.config.max_bad_steps}. Lower train.learning_rate, or read the "
                "last logged completions; the last checkpoint is intact"
            )
        return True

    def metrics(self) -> dict[str, float]:
        """Return the number of bad steps since the last call; empty if max_bad_steps is 0."""
        count, self._new = self._new, 0
        return {"bad_steps": float(count)} if self.config.max_bad_steps else {}

    def _reason(self, norm: float) -> str | None:
        """Return why the norm is bad, for the message ("" if it is not finite); None if it is not bad."""
        if not math.isfinite(norm):
            return ""
        factor = self.config.spike_factor
        if factor is None or len(self._norms) < MIN_NORMS:
            return None
        median = statistics.median(self._norms)
        return f", more than {factor:g} times the median {median:.4g}" if norm > factor * median else None

    def _in_a_row(self) -> int:
        count = 0
        while count < len(self._bad) and self._bad[-1 - count]:
            count += 1
        return count
