"""The rubric of traces: five dimensions per task, 0 to 10 each (TraceLift, arXiv 2605.03862)."""

from __future__ import annotations

import math

from fastrl.types import Task

DIMENSIONS: dict[Task, tuple[str, ...]] = {
    "math": (
        "problem_understanding", "solution_strategy", "step_coherence", "calculation_correctness",
        "answer_support",
    ),
    "code": ("task_understanding", "plan_quality", "step_coherence", "action_support", "non_leakage"),
}  # fmt: skip
NUM_LEVELS = 5


def level_of(score: float) -> int:
    """Return min(4, floor(score / 2)), the level 0 to 4 of a score in [0, 10]."""
    if not 0 <= score <= 10:
        raise ValueError(f"[rubric] score: expected 0 to 10, got {score}")
    return min(NUM_LEVELS - 1, math.floor(score / 2))
