"""What a policy loss is made of. Field names are the field's; defaults are plain on-policy DAPO."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from fastrl.kernels._compiled import constant

LossType = Literal["grpo", "dr_grpo", "dapo", "bnpo", "gspo", "cispo", "rloo"]
KLEstimator = Literal["k1", "k2", "k3"]
Correction = Literal["none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]
AdvantageScale = Literal["std", "none", "batch"]
AdvantageBaseline = Literal["mean", "leave_one_out", "zero", "one"]
SEQUENCE_MEAN = ("grpo", "gspo")


@dataclass(frozen=True, slots=True, kw_only=True)
class LossConfig:
    """The policy loss: what is clipped, how tokens are weighted, what is added."""

    loss_type: LossType = "dapo"
    """grpo and gspo average each sequence first; dr_grpo divides by a fixed length; dapo, bnpo, cispo and
    rloo divide by the step's tokens. gspo takes the ratio of whole sequences, cispo clips the ratio as a
    weight, rloo is REINFORCE (its leave-one-out baseline belongs to the advantages)."""
    clip_eps_low: float = 0.2
    """>= 0; the ratio is clipped below at 1 - clip_eps_low."""
    clip_eps_high: float | None = None
    """>= 0; clipped above at 1 + clip_eps_high. None: clip_eps_low (5 for cispo with an absolute bound)."""
    cispo_bound: Literal["absolute", "around_one"] = "absolute"
    """cispo's weight: min(ratio, clip_eps_high) (absolute, TRL) or ratio clamped to
    [1 - clip_eps_low, 1 + clip_eps_high] (around_one, verl)."""
    dual_clip: float | None = None
    """> 1 or None: the ratio is capped at it where the advantage is negative (TRL's delta: everywhere)."""
    kl_coef: float = 0.0
    """>= 0; weight of the KL to the reference. 0: no reference is needed."""
    kl_estimator: KLEstimator = "k3"
    kl_ratio: bool = False
    """The KL is multiplied by the ratio, which makes it unbiased on stale samples (DeepSeek-V3.2; TRL's
    use_bias_correction_kl)."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus; 0: entropy is only measured."""
    correction: Correction = "token_truncate"
    """Importance correction for engine-against-trainer mismatch, used where rollout_logprobs are given."""
    correction_cap: float = 3.0
    """> 0; largest correction weight kept (truncate) or allowed (mask)."""

    def __post_init__(self) -> None:
        for name, value in (("clip_eps_low", self.clip_eps_low), ("kl_coef", self.kl_coef)):
            if not value >= 0:
                raise ValueError(f"[loss] {name}: expected >= 0, got {value}")
        if self.clip_eps_high is not None and not self.clip_eps_high >= 0:
            raise ValueError(f"[loss] clip_eps_high: expected >= 0 or null, got {self.clip_eps_high}")
        if self._bound_is_absolute and not self.eps_high >= 1:
            raise ValueError(
                f"[loss] clip_eps_high: expected >= 1 (cispo's largest weight, cispo_bound is absolute), "
                f"got {self.clip_eps_high}"
            )
        if self.dual_clip is not None and not self.dual_clip > 1:
            raise ValueError(f"[loss] dual_clip: expected > 1 or null, got {self.dual_clip}")
        if not self.correction_cap > 0:
            raise ValueError(f"[loss] correction_cap: expected > 0, got {self.correction_cap}")

    @property
    def eps_high(self) -> float:
        if self.clip_eps_high is not None:
            return self.clip_eps_high
        return 5.0 if self._bound_is_absolute else self.clip_eps_low

    @property
    def averages_sequences(self) -> bool:
        """A token weighs 1 / (trained tokens of its sequence), otherwise 1."""
        return self.loss_type in SEQUENCE_MEAN

    @property
    def corrects_sequences(self) -> bool:
        """The importance correction is one weight a sequence."""
        return self.correction.startswith("sequence")

    @property
    def _bound_is_absolute(self) -> bool:
        return self.loss_type == "cispo" and self.cispo_bound == "absolute"

    def encode(self) -> str:
        """What a custom op takes; a compiled caller sees a constant."""
        return _encode(tuple((name, getattr(self, name)) for name in FIELDS))

    @staticmethod
    def decode(text: str) -> LossConfig:
        return _decode(text)

    def denominator(self, num_tokens: int, num_sequences: int, max_completion_length: int) -> float:
        """What the step's summed loss is divided by: one number, whatever the micro-batches."""
        if self.averages_sequences:
            return float(max(1, num_sequences))
        if self.loss_type == "dr_grpo":
            return float(max(1, num_sequences) * max_completion_length)
        return float(max(1, num_tokens))


FIELDS = tuple(each.name for each in dataclasses.fields(LossConfig))


@constant
def _encode(fields: tuple[tuple[str, object], ...]) -> str:
    return json.dumps(dict(fields))


@lru_cache(maxsize=64)
def _decode(text: str) -> LossConfig:
    return LossConfig(**json.loads(text))
