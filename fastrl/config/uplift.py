"""The uplift reward (TraceLift, arXiv 2605.03862)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from fastrl.config.base import check_positive
from fastrl.config.executor import ExecutorConfig

Form = Literal["product", "execution", "quality", "uplift", "sum"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpliftConfig:
    """A frozen executor consumes the policy's traces; a reward model judges them."""

    executor: ExecutorConfig = field(default_factory=ExecutorConfig)
    """Needed where reward.functions has uplift."""
    reward_model: str = ""
    """Folder of a reasoning reward model, as the reward_model stage writes it. Needed by reward.functions
    rubric, and by uplift in forms product, quality and sum."""
    form: Form = "product"
    """What is added to the primary run's result: quality x uplift (the paper's), the quality alone, the
    uplift alone, half their sum, or nothing (execution)."""
    repeats: int = 3
    """Runs of the executor with the trace, beside the primary one."""
    baseline_repeats: int = 8
    """Runs of the executor without a trace."""
    baseline: Literal["cached", "resampled"] = "cached"
    """cached: a problem's runs without a trace are made once and kept; a run that went on makes them again,
    with the same draws. resampled: anew for every trace, as in the paper."""
    trace_tag: str = "reasoning"
    """A trace is what stands between <tag> and </tag>; without the tag, the whole completion."""
    leak: Literal["count", "zero"] = "count"
    """A trace that states the final answer (math) or holds a program (code) is counted, or gets reward 0."""

    def __post_init__(self) -> None:
        check_positive("uplift", self, "repeats", "baseline_repeats")

    @property
    def needs_quality(self) -> bool:
        return self.form in ("product", "quality", "sum")
