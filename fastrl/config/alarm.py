"""When training is told to have collapsed, saturated or drifted from its engine, and whether that ends it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastrl.config.base import check_at_least, check_positive, refuse

Alarm = Literal["collapse", "saturation", "drift", "transfer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmConfig:
    """Rules over a run's own metrics; none of them sees a gold answer. null switches a rule off."""

    min_entropy_ratio: float | None = 0.1
    """Collapse: entropy is below this share of what it was at the start. Training with right labels often
    halves it; a tenth is left where hardly anything is drawn any more."""
    length_factor: float | None = 4.0
    """Collapse: completions are on average this many times longer, or shorter, than at the start. > 1."""
    max_clipped_fraction: float | None = 0.9
    """Collapse: a larger share of completions is cut off at rollout.max_new_tokens."""
    max_common_share: float | None = 0.9
    """Collapse: to a larger share of a step's problems the policy mostly gives one and the same answer. For
    problems that all have the same answer: null."""
    min_agreement_ratio: float | None = 0.75
    """Collapse: the share of a problem's completions that state its most frequent answer is below this part
    of what it was at the start. Learning brings answers together; a proxy that is being gamed parts them."""
    min_ess: float | None = 0.8
    """Drift: importance weights of trainer over engine are worth less than this share of the step's tokens
    (drift/ess_tokens)."""
    max_log_ratio: float | None = 0.2
    """Drift: trainer's and engine's log-probs of a token are on average further apart, in nats. float32 has
    about 1e-6, bfloat16 1e-2."""
    max_empty_cuts: float | None = 0.5
    """Transfer: of a larger share of the rollouts every cut is empty, since the answer begins at once: a
    receiver continues nothing, and its reward says nothing of them."""
    span: int = 5
    """Steps of the moving average that is judged, and steps that are the start."""
    patience: int = 5
    """Steps in a row in which a rule of collapse or drift must hold."""
    saturation_share: float = 0.99
    """Saturation: the moving average of the reward already was at this share of its best ..."""
    saturation_patience: int = 50
    """... so many steps ago. Rewards that are not > 0, such as entropy, never saturate."""
    stop_on: tuple[Alarm, ...] = ()
    """collapse, saturation, drift, transfer: these end training, with a checkpoint as after the last step. A
    run that was ended so goes on where it is started again with fewer of them."""

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
