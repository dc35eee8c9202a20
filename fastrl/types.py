"""Data types that engines, rewards and the policy share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

Task = Literal["math", "code"]
"""Kind of answer: math, a value that is compared; code, a program that is run against tests."""

Metrics = dict[str, float]
"""Metrics of a step or of an evaluation, by name."""

FinishReason = Literal["stop", "length"]


class Message(TypedDict):
    """One turn of a chat, in the form that Hugging Face chat templates take."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """Sampling parameters of an engine."""

    max_new_tokens: int = 512
    """> 0; a completion of this length ends with finish reason "length"."""
    temperature: float = 1.0
    """>= 0; 0 is greedy, with log-probs at temperature 1."""
    top_p: float = 1.0
    """Nucleus sampling, in (0, 1]; 1: off."""
    top_k: int = 0
    """>= 0; 0: off."""
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end a completion; the token is kept as its last one."""
    stop: tuple[str, ...] = ()
    """Strings that end a completion once its decoded text contains one; the text is not truncated. A string
    that is a special token acts like stop_token_ids."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"[sampling] max_new_tokens: expected >= 1, got {self.max_new_tokens}")
        if not self.temperature >= 0:
            raise ValueError(f"[sampling] temperature: expected >= 0, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"[sampling] top_p: expected a number in (0, 1], got {self.top_p}")
        if self.top_k < 0:
            raise ValueError(f"[sampling] top_k: expected >= 0, got {self.top_k}")


@dataclass(slots=True, kw_only=True)
class Completion:
    """One sampled continuation of a prompt."""

    token_ids: list[int]
    logprobs: list[float]
    """Log-prob of each token under the distribution it was sampled from (temperature, top-p, top-k), nats."""
    finish_reason: FinishReason
    text: str
    """token_ids decoded without special tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """One prefix to continue: prompt + token_ids."""

    token_ids: Sequence[int]
    """Tokens after the prompt; may be empty."""
    num_samples: int = 1
    """Continuations to sample; 0: the branch is only scored."""
    max_new_tokens: int
    """Longest continuation."""
    seed: int
    """The seed of sample j depends only on (seed, j)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixTree:
    """A prompt and prefixes that start with it. Tokens that branches share are computed once."""

    prompt_ids: Sequence[int]
    branches: Sequence[Branch]


@dataclass(frozen=True, slots=True)
class TrainSequence:
    """A sequence of tokens with its loss mask; the first token is never predicted."""

    token_ids: Sequence[int]
    loss_mask: Sequence[bool]
    """True for the tokens that the loss trains."""
    weights: Sequence[float] | None = None
    """Weight of each token in a mean over trained tokens; None: 1 for all."""

    def __post_init__(self) -> None:
        if len(self.token_ids) != len(self.loss_mask):
            raise ValueError(
                f"[pack] loss_mask: expected {len(self.token_ids)} entries, one per token, "
                f"got {len(self.loss_mask)}"
            )

    @property
    def num_loss_tokens(self) -> int:
        return sum(self.loss_mask[1:])

    @property
    def loss_weights(self) -> list[float]:
        """Weights of the trained tokens, in order."""
        if self.weights is None:
            return [1.0] * self.num_loss_tokens
        return [w for w, trained in zip(self.weights[1:], self.loss_mask[1:], strict=True) if trained]


@dataclass(slots=True)
class Rollout:
    """One completion of the policy, with its rewards and advantage."""

    prompt_ids: list[int]
    completion_ids: list[int]
    rollout_logprobs: list[float]
    text: str
    finish_reason: FinishReason
    group: int
    """Index of the prompt in the step's batch; advantages compare rollouts of one group."""
    rewards: dict[str, float | None] = field(default_factory=dict)
    """Unweighted rewards by name; None if a reward does not apply."""
    reward: float = 0.0
    """Weighted sum of the rewards."""
    advantage: float = 0.0
    extras: dict[str, Any] = field(default_factory=dict)
    """Further values that rewards log (cuts, continuations, verdicts); JSON-serialisable."""
