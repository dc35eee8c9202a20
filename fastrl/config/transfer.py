"""Options of the transfer reward (RLTR)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from fastrl.config.base import PromptedConfig, check_at_least, check_positive, refuse, take_prompted
from fastrl.config.engine import ReceiverEngineConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferConfig:
    """The transfer reward: a frozen receiver continues a truncated rollout (RLTR, arXiv 2602.08489)."""

    receiver: PromptedConfig = field(default_factory=PromptedConfig)
    """The frozen model that continues the prefix; required by the reward transfer."""
    engine: ReceiverEngineConfig = field(default_factory=ReceiverEngineConfig)
    num_cuts: int = 1
    """K: prefixes per rollout, each cut at its own tau ~ U(0, 1]."""
    num_continuations: int = 1
    """N: continuations per prefix; the reward is the mean over K x N."""
    tau_shared_in_group: bool = False
    """Cut all rollouts of a prompt at the same taus, so that none gains from a longer prefix by chance."""
    strip_answer: bool = False
    """End the prefix before the first answer marker, so that it never contains the answer."""
    mode: Literal["sample", "force", "teacher"] = "sample"
    """sample: the receiver continues to its end token. force: it writes only the answer, after forcing_text.
    teacher: the reward is its probability of the gold answer after forcing_text; nothing is sampled."""
    forcing_text: str = "\n\nThe final answer is \\boxed{"
    """Text appended to the prefix in modes force and teacher."""
    forcing_end: str = "}"
    """Text that ends the answer in modes force and teacher."""
    answer_tokens: int = 32
    """Longest answer in mode force, in the receiver's tokens."""
    temperature: float = 0.7
    """Sampling temperature of the receiver; 0 is greedy."""
    top_p: float = 0.95
    """Nucleus sampling of the receiver, in (0, 1]; 1: off."""
    slack_tokens: int = 256
    """A continuation may have rollout.max_new_tokens - cut + this many tokens."""

    def __post_init__(self) -> None:
        take_prompted("transfer", self, "receiver")
        check_positive("transfer", self, "num_cuts", "num_continuations", "answer_tokens")
        if self.mode != "sample" and not self.forcing_end:
            refuse("transfer", "forcing_end", "at least one character", self.forcing_end)
        check_at_least("transfer", self, 0, "temperature", "slack_tokens")
        if not 0 < self.top_p <= 1:
            refuse("transfer", "top_p", "a number in (0, 1]", self.top_p)
