"""Truncated completions: which ones the loss masks, and the warning about their share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastrl.config import LossConfig, RlConfig
from fastrl.runtime.context import Context
from fastrl.runtime.run import finite, read_metrics
from fastrl.training.alarm import CLIPPED
from fastrl.types import Rollout

WARN_ABOVE = 0.1
"""Share of a step's completions."""


def is_masked(rollout: Rollout, loss: LossConfig) -> bool:
    """Return True if the rollout was cut off and loss.mask_truncated_completions leaves such ones out."""
    return loss.mask_truncated_completions != "none" and rollout.finish_reason == "length"


class TruncationWarning:
    """Warns if more than a tenth of a step's completions are cut off, and again each time the share doubles.

    Args:
        history: the lines of metrics.jsonl, in order of step; their warnings are not repeated.
    """

    def __init__(self, config: RlConfig, history: Sequence[Mapping[str, Any]] = ()) -> None:
        self.max_new_tokens = config.rollout.max_new_tokens
        self.masks = config.loss.mask_truncated_completions != "none"
        self.warned = 0.0
        """Share at the last warning."""
        for line in history:
            self.judge(line)

    @classmethod
    def of_run(cls, context: Context[RlConfig]) -> TruncationWarning:
        """Return the warning of a run folder, with its history on the first rank, and none on the others."""
        metrics = context.run.metrics_file
        seen = context.ranks.first and metrics.exists()
        return cls(context.config, read_metrics(metrics) if seen else ())

    def judge(self, metrics: Mapping[str, Any]) -> list[str]:
        """Return the warning about a step's metrics as a list of no or one line."""
        share = finite(metrics.get(CLIPPED))
        if share is None or share <= WARN_ABOVE or share < 2 * self.warned:
            return []
        self.warned = share
        treated = "masked" if self.masks else "trained on; loss.mask_truncated_completions masks them"
        return [
            f"{share:.0%} of the step's completions were cut off at rollout.max_new_tokens "
            f"{self.max_new_tokens}; they are {treated}"
        ]
