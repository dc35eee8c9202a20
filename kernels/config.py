"""Options of the policy loss; the defaults are on-policy DAPO."""

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
Truncated = Literal["none", "in_baseline", "out_of_baseline"]
SEQUENCE_MEAN = ("grpo", "gspo")


@dataclass(frozen=True, slots=True, kw_only=True)
class LossConfig:
    """The policy loss: clipping, weighting of tokens, KL and entropy terms."""

    loss_type: LossType = "dapo"
    """grpo and gspo average over each sequence first; dr_grpo divides by a fixed length; dapo, bnpo, cispo
    and rloo divide by the step's tokens. gspo uses sequence-level ratios, cispo clips the ratio as a weight,
    and rloo is REINFORCE (set reward.baseline to leave_one_out)."""
    clip_eps_low: float = 0.2
    """>= 0; the ratio is clipped below at 1 - clip_eps_low."""
    clip_eps_high: float | None = None
    """>= 0; the ratio is clipped above at 1 + clip_eps_high. null: clip_eps_low (5 for cispo with an absolute
    bound)."""
    cispo_bound: Literal["absolute", "around_one"] = "absolute"
    """cispo's weight: min(ratio, clip_eps_high) (absolute, as in TRL), or the ratio clamped to
    [1 - clip_eps_low, 1 + clip_eps_high] (around_one, as in verl)."""
    dual_clip: float | None = None
    """> 1; cap of the ratio for negative advantages (TRL's delta caps all). null: off."""
    kl_coef: float = 0.0
    """>= 0; weight of the KL to the reference model. 0: no reference model is loaded."""
    kl_estimator: KLEstimator = "k3"
    """Estimator of the KL, with d = logprobs - ref_logprobs: d (k1), d^2 / 2 (k2), exp(-d) + d - 1 (k3)."""
    kl_ratio: bool = False
    """Multiply the KL by the ratio, which makes it unbiased on stale samples (DeepSeek-V3.2; TRL's
    use_bias_correction_kl)."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus. 0: entropy is only measured."""
    correction: Correction = "token_truncate"
    """Importance correction of the mismatch between engine and trainer, if there are rollout_logprobs."""
    correction_cap: float = 3.0
    """> 0; larger correction weights are set to this value (truncate) or to 0 (mask)."""
    mask_truncated_completions: Truncated = "none"
    """Leave completions that rollout.max_new_tokens cut off out of the loss, with their KL and entropy terms.
    in_baseline: their rewards still count in the advantages of the others (TRL's true). out_of_baseline: they
    don't. none: train on them as on any other."""

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
        """clip_eps_high, or its default."""
        if self.clip_eps_high is not None:
            return self.clip_eps_high
        return 5.0 if self._bound_is_absolute else self.clip_eps_low

    @property
    def averages_sequences(self) -> bool:
        """True if a token's weight is 1 / (loss tokens of its sequence), otherwise 1."""
        return self.loss_type in SEQUENCE_MEAN

    @property
    def corrects_sequences(self) -> bool:
        """True if the importance correction is one weight per sequence."""
        return self.correction.startswith("sequence")

    @property
    def _bound_is_absolute(self) -> bool:
        return self.loss_type == "cispo" and self.cispo_bound == "absolute"

    def encode(self) -> str:
        """Return the configuration as text, for custom ops; torch.compile sees a constant."""
        return _encode(tuple((name, getattr(self, name)) for name in FIELDS))

    @staticmethod
    def decode(text: str) -> LossConfig:
        """Return the configuration that `encode` wrote."""
        return _decode(text)

    def denominator(self, num_tokens: int, num_sequences: int, max_completion_length: int) -> float:
        """Return the divisor of the step's summed loss; it does not depend on the micro-batches."""
        if self.averages_sequences:
            return float(max(1, num_sequences))
        if self.loss_type == "dr_grpo":
            return float(max(1, num_sequences) * max_completion_length)
        return float(max(1, num_tokens))


FIELDS = tuple(field.name for field in dataclasses.fields(LossConfig))


@constant
def _encode(fields: tuple[tuple[str, object], ...]) -> str:
    return json.dumps(dict(fields))


@lru_cache(maxsize=64)
def _decode(text: str) -> LossConfig:
    return LossConfig(**json.loads(text))
