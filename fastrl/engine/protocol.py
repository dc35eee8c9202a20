"""What every engine can do. Rewards, evaluation and the loop know engines by this alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from fastrl.types import Completion, PrefixTree, SamplingParams

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
    decode_tokens: int = 0
    """Sampled tokens that went through the model (the last one of a completion never does)."""
    generated_tokens: int = 0
    """Tokens returned in completions."""
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

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: SamplingParams, *, seeds: Sequence[int], n: int = 1
    ) -> list[list[Completion]]:
        """n completions of each prompt; sample j of prompt i draws with a seed made from (seeds[i], j) alone,
        so a completion does not depend on what else is in the batch."""

    def continue_prefixes(
        self, trees: Sequence[PrefixTree], sampling: SamplingParams
    ) -> list[list[list[Completion]]]:
        """[tree][branch][sample]; shared token paths are prefilled once. Each branch's own max_new_tokens
        and seed take the place of the sampling's."""

    def score(self, sequences: Sequence[Sequence[int]], temperature: float = 1.0) -> list[Scores]:
        """Log-probability, entropy and self-certainty of every token of every sequence."""

    def load_weights(self, tensors: Iterable[tuple[str, Tensor]], version: int) -> str:
        """Copy every weight in; returns a checksum of what arrived. A missing or unknown name is an error."""

    def sleep(self, level: int = 1) -> None:
        """Give memory back: level 1 drops caches and moves weights to host memory."""

    def wake(self) -> None: ...

    def stats(self) -> EngineStats: ...


def checksum(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Order-independent digest of named tensors' bits, cheap enough for every step.

    Two int64 sums a tensor, over all of its words and over every other one, so that a lost, swapped, shifted
    or rounded tensor shows.
    """
    names, sums = [], []
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        words = tensor.detach().contiguous().view(-1).view(WORDS[tensor.element_size()])
        names.append(name)
        sums.append(torch.stack([words.sum(dtype=torch.int64), words[::2].sum(dtype=torch.int64)]).cpu())
    digest = hashlib.sha256("\n".join(names).encode())
    digest.update(torch.stack(sums).numpy().tobytes() if sums else b"")
    return digest.hexdigest()[:16]
