"""The words that engines, rewards and the policy share. Plain data, no behaviour beyond checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

Task = Literal["math", "code"]
"""What an answer is: a value that is compared, or a program that is run."""

Metrics = dict[str, float]
"""Numbers of a step or of an evaluation, by name."""

FinishReason = Literal["stop", "length"]


class Message(TypedDict):
    """One turn of a chat, as Hugging Face chat templates take it."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How an engine draws tokens."""

    max_new_tokens: int = 512
    """> 0; generation ends with finish reason "length" when it is reached."""
    temperature: float = 1.0
    """>= 0; 0 is greedy (log-probs are then those at temperature 1)."""
    top_p: float = 1.0
    """In (0, 1]; 1 is off."""
    top_k: int = 0
    """>= 0; 0 is off."""
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end a completion; the token itself is kept as its last one."""
    stop: tuple[str, ...] = ()
    """Strings that end a completion as soon as its decoded text contains one; nothing is cut off. One that is
    a special token of the tokenizer ends it as stop_token_ids do."""

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
    """nats, of each sampled token under the distribution it was drawn from (temperature, top-p, top-k)."""
    finish_reason: FinishReason
    text: str
    """token_ids decoded without special tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """One prefix to be continued: a path below the prompt of its tree."""

    token_ids: Sequence[int]
    """Tokens after the prompt; may be empty."""
    num_samples: int = 1
    """0: it is there to be scored alone."""
    max_new_tokens: int
    seed: int
    """Sample j of this branch draws with a seed made from (seed, j) alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixTree:
    """A prompt and the prefixes below it. Whatever token paths the branches share is computed once."""

    prompt_ids: Sequence[int]
    branches: Sequence[Branch]


@dataclass(frozen=True, slots=True)
class TrainSequence:
    """A sequence of tokens and which of them the loss speaks of; the first token is never predicted."""

    token_ids: Sequence[int]
    loss_mask: Sequence[bool]
    weights: Sequence[float] | None = None
    """Of each token in a mean over trained tokens; None: all weigh 1."""

    def __post_init__(self) -> None:
        if len(self.token_ids) != len(self.loss_mask):
            raise ValueError(
                f"[pack] loss_mask: expected {len(self.token_ids)} entries, one a token, "
                f"got {len(self.loss_mask)}"
            )

    @property
    def num_loss_tokens(self) -> int:
        return sum(self.loss_mask[1:])

    @property
    def loss_weights(self) -> list[float]:
        """Of the trained tokens, in order."""
        if self.weights is None:
            return [1.0] * self.num_loss_tokens
        return [w for w, trained in zip(self.weights[1:], self.loss_mask[1:], strict=True) if trained]


@dataclass(slots=True)
class Rollout:
    """One completion of the policy, on its way from the engine to the loss."""

    prompt_ids: list[int]
    completion_ids: list[int]
    rollout_logprobs: list[float]
    text: str
    finish_reason: FinishReason
    group: int
    """Index of the prompt in the step's batch: rollouts with equal group are compared with each other."""
    rewards: dict[str, float | None] = field(default_factory=dict)
    """Unweighted, by reward name; None where a reward does not apply."""
    reward: float = 0.0
    """The weighted sum."""
    advantage: float = 0.0
    extras: dict[str, Any] = field(default_factory=dict)
    """What rewards logged beside it (cuts, continuations, verdicts); JSON-serialisable."""
