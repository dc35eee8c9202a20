"""What every engine can do. Rewards, evaluation and the loop know engines by this alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from fastrl.types import Completion, PrefixTree, SamplingParams

HALF_LOADED = (
    "[engine] weights: expected every one of them, got some: loading them was interrupted, or sleep(2) has "
    "dropped them; call load_weights with all"
)
WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(slots=True)
class EngineStats:
    """Counted since the engine was made; tokens and requests, never estimates."""

    requests: int = 0
    """Completions asked for."""
    prompt_tokens_asked: int = 0
    """Prefill tokens if every completion were prefilled on its own."""
    prefill_tokens: int = 0
    """Prefill tokens that went through the model."""
    cached_tokens: int = 0
    """Prefill tokens whose keys and values were there from an earlier request."""
    decode_tokens: int = 0
    """Sampled tokens that went through the model (the last one of a completion never does)."""
    generated_tokens: int = 0
    """Tokens returned in completions."""
    kv_tokens_read: int = 0
    """Tokens whose keys and values decode steps read, a shared one once a step for all rows below it."""
    kv_tokens_asked: int = 0
    """The same if every row read its own context."""
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


Place = tuple[int, int, int]
"""(tree, branch, sample) of a completion."""

Watcher = Callable[[Sequence[tuple[Place, Completion]]], Iterable[Place]]
"""Is told which completions have ended, and names others that need not go on."""


class Engine(Protocol):
    """A model that samples and scores. It owns its weights; they change only in load_weights."""

    tokenizer: Any
    max_model_len: int
    """Longest prompt + completion it can hold, in tokens."""
    weights_version: int

    @property
    def takes_partial_weights(self) -> bool:
        """load_weights may be given some weights now, and keeps the others."""

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: SamplingParams, *, seeds: Sequence[int], n: int = 1
    ) -> list[list[Completion]]:
        """n completions of each prompt; sample j of prompt i draws with a seed made from (seeds[i], j) alone,
        so a completion does not depend on what else is in the batch."""

    def continue_prefixes(
        self, trees: Sequence[PrefixTree], sampling: SamplingParams, watch: Watcher | None = None
    ) -> list[list[list[Completion]]]:
        """[tree][branch][sample]; shared token paths are prefilled once. Each branch's own max_new_tokens
        and seed take the place of the sampling's. What `watch` names ends as "cancelled"."""

    def continue_and_score(
        self, trees: Sequence[PrefixTree], sampling: SamplingParams, scored: Sequence[Collection[int]],
        temperature: float = 1.0, watch: Watcher | None = None,
    ) -> tuple[list[list[list[Completion]]], list[dict[int, list[float]]]]:  # fmt: skip
        """continue_prefixes, and the log-probs of some branches of each tree: {branch: [token]}. A
        scored branch may have num_samples 0."""

    def score(
        self,
        sequences: Sequence[Sequence[int]],
        temperature: float = 1.0,
        starts: Sequence[int] | None = None,
    ) -> list[Scores]:
        """Log-probability, entropy and self-certainty of every token of every sequence; with starts, of those
        from starts[i] on alone (the others are 0)."""

    def load_weights(self, tensors: Iterable[tuple[str, Tensor]], version: int, partial: bool = False) -> str:
        """Copy every weight in; returns a checksum of what it then holds. An unknown name is an error, as is
        one that comes twice, and a missing one unless `partial`, which takes_partial_weights allows.

        Tensors are taken as they come and let go, so that never all of them are held. After an error on the
        way the weights are undefined: the engine refuses to work until every one has been loaded."""

    def sleep(self, level: int = 1) -> None:
        """Give memory back: level 1 drops caches and moves weights to host memory; level 2 drops the weights
        too, and every one must be loaded after wake()."""

    def wake(self) -> None: ...

    def stats(self) -> EngineStats: ...


def checksum(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Order-independent digest of named tensors' bits, cheap enough for every step.

    Two int64 sums a tensor, over all of its words and over every other one, so that a lost, swapped, shifted
    or rounded tensor shows.
    """
    return digest_of({name: word_sums(tensor) for name, tensor in tensors})


def word_sums(tensor: Tensor) -> Tensor:
    """[2] int64, on the host: the sums of a tensor's words, and of every other one."""
    words = tensor.detach().contiguous().view(-1).view(WORDS[tensor.element_size()])
    return torch.stack([words.sum(dtype=torch.int64), words[::2].sum(dtype=torch.int64)]).cpu()


def digest_of(sums: Mapping[str, Tensor]) -> str:
    """The checksum, of each tensor's word_sums."""
    names = sorted(sums)
    digest = hashlib.sha256("\n".join(names).encode())
    digest.update(torch.stack([sums[name] for name in names]).numpy().tobytes() if names else b"")
    return digest.hexdigest()[:16]
