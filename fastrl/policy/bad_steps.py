"""Which gradients are applied, and when there were too many bad ones to go on."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping
from typing import Any

from fastrl.config import TrainConfig

SPAN = 100
"""Optimiser steps that are remembered."""
MOST_BAD = 0.1
"""Share of these that may be bad."""
FEWEST_NORMS = 10
"""That a median is taken of."""


class BadSteps:
    """Judges every gradient by its norm, alike on every rank, since the norm is of the gradient summed over
    all of them.

        bad  <=>  norm is NaN or infinite, or norm > spike_factor * median(the last 100 norms > 0 applied)

    The second rule needs config.spike_factor and ten norms.

    Args:
        state: what `state()` gave when the checkpoint was saved, so that a resumed run judges as a whole one.
    """

    def __init__(self, config: TrainConfig, state: Mapping[str, Any] | None = None) -> None:
        state = state or {}
        self.config = config
        self._norms: deque[float] = deque(state.get("norms", ()), SPAN)
        self._bad: deque[bool] = deque(state.get("bad", ()), SPAN)
        self._fresh = 0

    def state(self) -> dict[str, Any]:
        """For a checkpoint; JSON-serialisable."""
        return {"norms": list(self._norms), "bad": list(self._bad)}

    def skips(self, norm: float, step: int) -> bool:
        """Whether this gradient must not be applied.

        Raises:
            FloatingPointError: bad, and one more than max_bad_steps in a row or a tenth of the last hundred.
        """
        reason = self._reason(norm)
        self._bad.append(reason is not None)
        if reason is None:
            self._norms.extend([norm] if norm > 0 else [])
            return False
        self._fresh += 1
        if self._in_a_row() > self.config.max_bad_steps or sum(self._bad) > MOST_BAD * SPAN:
            raise FloatingPointError(
                f"[train] gradient norm is {norm:.4g} at step {step}{reason}: no weight was changed by it. "
                f"{self._in_a_row()} in a row and {sum(self._bad)} of the last {len(self._bad)} were bad; "
                f"train.max_bad_steps is {self.config.max_bad_steps}. Lower train.learning_rate, or look at "
                "the last logged completions; the last checkpoint is intact"
            )
        return True

    def metrics(self) -> dict[str, float]:
        """bad_steps since the last call, where they are allowed."""
        count, self._fresh = self._fresh, 0
        return {"bad_steps": float(count)} if self.config.max_bad_steps else {}

    def _reason(self, norm: float) -> str | None:
        """Why it is bad, in words."""
        if not math.isfinite(norm):
            return ""
        factor = self.config.spike_factor
        if factor is None or len(self._norms) < FEWEST_NORMS:
            return None
        median = statistics.median(self._norms)
        return f", more than {factor:g} times the median {median:.4g}" if norm > factor * median else None

    def _in_a_row(self) -> int:
        count = 0
        while count < len(self._bad) and self._bad[-1 - count]:
            count += 1
        return count
