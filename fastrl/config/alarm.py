"""Alarms: thresholds that mark a run as collapsed, saturated or drifted from its engine, and may stop it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastrl.config.base import check_at_least, check_positive, refuse

Alarm = Literal["collapse", "saturation", "drift", "transfer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmConfig:
    """Thresholds on a run's own metrics; none uses a gold answer. null switches a rule off."""

    min_entropy_ratio: float | None = 0.1
    """Collapse: entropy falls below this fraction of its value at the start. Training with correct labels
    often halves it; at a tenth, samples hardly differ."""
    length_factor: float | None = 4.0
    """Collapse: mean completion length grows or shrinks by more than this factor since the start. > 1."""
    max_clipped_fraction: float | None = 0.9
    """Collapse: a larger fraction of completions is truncated at rollout.max_new_tokens."""
    max_common_share: float | None = 0.9
    """Collapse: one answer is the majority answer to a larger fraction of a step's problems. Set null if all
    problems have the same answer."""
    min_agreement_ratio: float | None = 0.75
    """Collapse: the fraction of a problem's completions with its most frequent answer falls below this
    fraction of its value at the start. Learning raises agreement; a gamed proxy reward lowers it."""
    min_ess: float | None = 0.8
    """Drift: the effective sample size of the trainer/engine importance weights, as a fraction of the step's
    tokens, falls below this (drift/ess_tokens)."""
    max_log_ratio: float | None = 0.2
    """Drift: the mean absolute difference between trainer and engine log-probs exceeds this, in nats per
    token. Typical: 1e-6 in float32, 1e-2 in bfloat16."""
    max_empty_cuts: float | None = 0.5
    """Transfer: for a larger fraction of rollouts every cut prefix is empty, because the answer comes first.
    The receiver then gets no reasoning, and the reward measures nothing."""
    span: int = 5
    """Steps in the moving average that the rules read; the first `span` steps are the start."""
    patience: int = 5
    """Consecutive steps for which a collapse or drift rule must hold before the alarm is raised."""
    saturation_share: float = 0.99
    """Saturation: the moving average of the reward had reached this fraction of its maximum ..."""
    saturation_patience: int = 50
    """... this many steps ago. A reward that is never > 0, such as entropy, does not saturate."""
    stop_on: tuple[Alarm, ...] = ()
    """Alarms that stop training after saving a checkpoint: collapse, saturation, drift, transfer. Restart the
    run with fewer of them to continue it."""

    def __post_init__(self) -> None:
        for name in (
            "min_entropy_ratio",
            "max_clipped_fraction",
            "max_common_share",
            "min_agreement_ratio",
            "min_ess",
            "max_empty_cuts",
        ):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                refuse("alarm", name, "a number in (0, 1) or null", value)
        if self.length_factor is not None and not self.length_factor > 1:
            refuse("alarm", "length_factor", "a number > 1 or null", self.length_factor)
        if self.max_log_ratio is not None and not self.max_log_ratio > 0:
            refuse("alarm", "max_log_ratio", "a number > 0 or null", self.max_log_ratio)
        check_positive("alarm", self, "span", "patience", "saturation_patience")
        check_at_least("alarm", self, 0, "saturation_share")
        if self.saturation_share > 1:
            refuse("alarm", "saturation_share", "a number in [0, 1]", self.saturation_share)
