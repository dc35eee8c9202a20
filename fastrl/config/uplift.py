"""Options of the uplift reward (TraceLift, arXiv 2605.03862)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from fastrl.config.base import check_positive
from fastrl.config.executor import ExecutorConfig

Form = Literal["product", "execution", "quality", "uplift", "sum"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpliftConfig:
    """The uplift reward: a frozen executor answers from the policy's trace, and a reward model scores it."""

    executor: ExecutorConfig = field(default_factory=ExecutorConfig)
    """The executor; its model.path is required by the reward uplift."""
    reward_model: str = ""
    """Folder of a reward model written by the reward_model stage. Required by the reward rubric, and by
    uplift in forms product, quality and sum."""
    form: Form = "product"
    """Bonus added to the result of the primary executor run: quality x uplift (product, as in the paper),
    quality, uplift, half their sum (sum), or none (execution)."""
    repeats: int = 3
    """Executor runs with the trace, in addition to the primary run."""
    baseline_repeats: int = 8
    """Executor runs without a trace."""
    baseline: Literal["cached", "resampled"] = "cached"
    """cached: run each problem without a trace once and reuse the result; a resumed run repeats it with the
    same samples. resampled: once per trace, as in the paper."""
    trace_tag: str = "reasoning"
    """The trace is the text between <tag> and </tag>; without the tag, the whole completion."""
    leak: Literal["count", "zero"] = "count"
    """A trace that states the final answer (math) or contains a program (code) is only counted, or gets
    reward 0."""

    def __post_init__(self) -> None:
        check_positive("uplift", self, "repeats", "baseline_repeats")

    @property
    def needs_quality(self) -> bool:
        return self.form in ("product", "quality", "sum")
