"""The interface of engines, as rewards, evaluation and the training loop use it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from fastrl.engine.weight_sums import WeightSum
from fastrl.types import Completion, PrefixTree, SamplingParams

WEIGHTS_MISSING = (
    "[engine] weights: expected all of them, got some: loading was interrupted, or sleep(2) has dropped "
    "them; call load_weights with all"
)


@dataclass(slots=True)
class EngineStats:
    """Exact counters since the engine was created."""

    requests: int = 0
    """Completions requested."""
    finished: int = 0
    """Completions that have ended; updated during a call."""
    prompt_tokens_asked: int = 0
    """Prefill tokens if every completion had its own prefill."""
    prefill_tokens: int = 0
    """Prefill tokens that were computed."""
    cached_tokens: int = 0
    """Prefill tokens whose keys and values were in the cache."""
    decode_tokens: int = 0
    """Sampled tokens that went through the model; the last one of a completion never does."""
    agreed_tokens: int = 0
    """Sampled tokens that prefill had computed, since their prefix tree has them at that place."""
    generated_tokens: int = 0
    """Tokens of finished completions."""
    kv_tokens_read: int = 0
    """Tokens whose keys and values decode steps read; shared ones count once per step."""
    kv_tokens_asked: int = 0
    """The same count if every request read its whole context."""
    scored_tokens: int = 0
    """Tokens computed for scoring."""
    prefill_ms: float = 0.0
    """Wall time of prefill."""
    decode_ms: float = 0.0
    """Wall time of decoding."""


@dataclass(slots=True)
class Scores:
    """Per-token scores of one sequence, in nats: entry t is for token t given tokens < t; entry 0 is 0."""

    logprobs: list[float]
    entropy: list[float]
    self_certainty: list[float]


class Engine(Protocol):
    """A model that samples and scores, with its own weights, which only load_weights changes."""

    tokenizer: Any
    max_model_len: int
    """Longest prompt + completion, in tokens."""
    weights_version: int
    """`version` of the last load_weights."""

    @property
    def takes_partial_weights(self) -> bool:
        """True if load_weights accepts partial=True."""

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: SamplingParams, *, seeds: Sequence[int], n: int = 1
    ) -> list[list[Completion]]:
        """Return n completions of each prompt.

        The seed of sample j of prompt i depends only on (seeds[i], j), so a completion does not depend on the
        rest of the batch.
        """

    def continue_prefixes(
        self, trees: Sequence[PrefixTree], sampling: SamplingParams
    ) -> list[list[list[Completion]]]:
        """Return completions [tree][branch][sample]; tokens that branches share are prefilled once.

        max_new_tokens and seed are those of each branch, not of `sampling`.
        """

    def continue_and_score(
        self, trees: Sequence[PrefixTree], sampling: SamplingParams, scored: Sequence[Collection[int]],
        temperature: float = 1.0,
    ) -> tuple[list[list[list[Completion]]], list[dict[int, list[float]]]]:  # fmt: skip
        """Return continue_prefixes' completions, and per tree the log-probs of scored branches' tokens.

        Args:
            scored: branches to score, per tree; they may have num_samples 0.
        Returns: completions, and {branch: log-probs in nats} per tree.
        """

    def score(
        self,
        sequences: Sequence[Sequence[int]],
        temperature: float = 1.0,
        starts: Sequence[int] | None = None,
    ) -> list[Scores]:
        """Return log-prob, entropy and self-certainty of every token of every sequence, in nats.

        Args:
            starts: tokens before starts[i] are not scored (0); None: all are.
        """

    def load_weights(
        self, tensors: Iterable[tuple[str, Tensor]], version: int, partial: bool = False
    ) -> None:
        """Copy all weights into the engine; with `partial` (see takes_partial_weights) only those given.

        Tensors are read one after another and released, so that they are never all in memory. After an error
        the weights are undefined, and the engine refuses to work until all have been loaded.

        Raises: ValueError: a name is unknown, comes twice, or is missing (unless partial).
        """

    def weight_sums(self) -> dict[str, WeightSum]:
        """Return checksums of the engine's weights (`fastrl.engine.weight_sums`), tied weights once.

        Equal weights have equal sums in every engine of one dtype. Reads all weights, so don't call it per
        step.
        """

    def sleep(self, level: int = 1) -> None:
        """Free device memory. Level 1 drops the KV cache and moves weights to host memory; level 2 drops the
        weights too, and all must be loaded after wake()."""

    def wake(self) -> None:
        """Undo sleep."""

    def stats(self) -> EngineStats:
        """Return a copy of the counters."""
