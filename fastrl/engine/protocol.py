"""The interface of engines, the only part of them that rewards, evaluation and the loop know."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from fastrl.engine.weight_sums import WeightSum
from fastrl.types import Completion, PrefixTree, SamplingParams

HALF_LOADED = (
    "[engine] weights: expected every one of them, got some: loading them was interrupted, or sleep(2) has "
    "dropped them; call load_weights with all"
)


@dataclass(slots=True)
class EngineStats:
    """Counts since the engine was made; tokens and requests, never estimates."""

    requests: int = 0
    """Completions asked for."""
    finished: int = 0
    """Of these, how many have ended; it grows while a call runs."""
    prompt_tokens_asked: int = 0
    """Prefill tokens if every completion were prefilled on its own."""
    prefill_tokens: int = 0
    """Prefill tokens that went through the model."""
    cached_tokens: int = 0
    """Prefill tokens whose keys and values were there from an earlier request."""
    decode_tokens: int = 0
    """Sampled tokens that went through the model (the last one of a completion never does)."""
    generated_tokens: int = 0
    """Tokens of finished completions."""
    kv_tokens_read: int = 0
    """Tokens whose keys and values decode steps read, shared ones once per step for all requests below."""
    kv_tokens_asked: int = 0
    """The same if every request read its own context."""
    scored_tokens: int = 0
    """Tokens that went through the model to be scored."""
    prefill_ms: float = 0.0
    decode_ms: float = 0.0


@dataclass(slots=True)
class Scores:
    """Per-token scores of one sequence: entry t speaks of token t given all before it; entry 0 is 0."""

    logprobs: list[float]
    entropy: list[float]
    self_certainty: list[float]


class Engine(Protocol):
    """A model that samples and scores. It owns its weights; they change only in load_weights."""

    tokenizer: Any
    max_model_len: int
    """Longest prompt + completion it can hold, in tokens."""
    weights_version: int

    @property
    def takes_partial_weights(self) -> bool:
        """True if load_weights may be given some weights, and keeps the others."""

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: SamplingParams, *, seeds: Sequence[int], n: int = 1
    ) -> list[list[Completion]]:
        """Return n completions of each prompt; sample j of prompt i draws with a seed made only from
        (seeds[i], j), so a completion does not depend on what else is in the batch."""

    def continue_prefixes(
        self, trees: Sequence[PrefixTree], sampling: SamplingParams
    ) -> list[list[list[Completion]]]:
        """Return completions [tree][branch][sample]; shared token paths are prefilled once. Each branch's own
        max_new_tokens and seed take the place of the sampling's."""

    def continue_and_score(
        self, trees: Sequence[PrefixTree], sampling: SamplingParams, scored: Sequence[Collection[int]],
        temperature: float = 1.0,
    ) -> tuple[list[list[list[Completion]]], list[dict[int, list[float]]]]:  # fmt: skip
        """Do continue_prefixes, and return the log-probs of some branches of each tree: {branch: [token]}. A
        scored branch may have num_samples 0."""

    def score(
        self,
        sequences: Sequence[Sequence[int]],
        temperature: float = 1.0,
        starts: Sequence[int] | None = None,
    ) -> list[Scores]:
        """Return log-probability, entropy and self-certainty of every token of every sequence; with starts,
        only of those from starts[i] on (the others are 0)."""

    def load_weights(
        self, tensors: Iterable[tuple[str, Tensor]], version: int, partial: bool = False
    ) -> None:
        """Copy every weight in. An unknown name is an error, as is one that comes twice, and a missing one
        unless `partial`, which takes_partial_weights allows.

        Tensors are taken as they come and let go, so that never all of them are held. After an error on the
        way the weights are undefined: the engine refuses to work until every one has been loaded."""

    def weight_sums(self) -> dict[str, WeightSum]:
        """Return the sums of each weight as the engine holds it (`fastrl.engine.weight_sums`), tied ones
        once. Equal weights have equal sums in every engine of one dtype. Reads all weights: not per step."""

    def sleep(self, level: int = 1) -> None:
        """Give memory back: level 1 drops caches and moves weights to host memory; level 2 drops the weights
        too, and every one must be loaded after wake()."""

    def wake(self) -> None: ...

    def stats(self) -> EngineStats: ...
