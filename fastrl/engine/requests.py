"""Preparation of requests in all engines: checks, prompts as trees, end tokens, stop strings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrl.types import Branch, PrefixTree, SamplingParams


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Limits of a model; each check raises a ValueError that names the field."""

    vocab_size: int
    max_model_len: int

    def check_ids(self, name: str, ids: Sequence[int] | NDArray[np.int64]) -> None:
        array = np.asarray(ids, dtype=np.int64)
        outside = array[(array < 0) | (array >= self.vocab_size)]
        if len(outside):
            raise ValueError(
                f"[engine] {name}: expected token ids in [0, {self.vocab_size}), got {outside[0]}"
            )

    def check_tree(self, tree: PrefixTree) -> None:
        if len(tree.prompt_ids) == 0:
            raise ValueError("[engine] prompt_ids: expected at least one token, got none")
        self.check_ids("prompt", tree.prompt_ids)
        for branch in tree.branches:
            self.check_ids("prompt", branch.token_ids)
            if branch.num_samples < 0:
                raise ValueError(f"[engine] num_samples: expected >= 0, got {branch.num_samples}")
            if branch.max_new_tokens < 1:
                raise ValueError(f"[engine] max_new_tokens: expected >= 1, got {branch.max_new_tokens}")
            prefix = len(tree.prompt_ids) + len(branch.token_ids)
            if prefix + branch.max_new_tokens * (branch.num_samples > 0) > self.max_model_len:
                raise ValueError(
                    f"[engine] prompt: expected prompt + max_new_tokens <= max_model_len "
                    f"{self.max_model_len}, got {prefix} + {branch.max_new_tokens}"
                )

    def check_stops(self, sampling: SamplingParams) -> None:
        for token in sampling.stop_token_ids:
            if not 0 <= token < self.vocab_size:
                raise ValueError(
                    f"[sampling] stop_token_ids: expected ids in [0, {self.vocab_size}), got {token}"
                )
        if "" in sampling.stop:
            raise ValueError("[sampling] stop: expected strings with at least one character, got ''")

    def check_scoring(
        self, sequences: Sequence[Sequence[int]], temperature: float, starts: Sequence[int] | None
    ) -> None:
        if not temperature > 0:
            raise ValueError(f"[engine] temperature: expected > 0, got {temperature}")
        if starts is not None and len(starts) != len(sequences):
            raise ValueError(
                f"[engine] starts: expected {len(sequences)}, one per sequence, got {len(starts)}"
            )
        longest = max((len(sequence) for sequence in sequences), default=0)
        if longest > self.max_model_len:
            raise ValueError(
                f"[engine] sequences: expected <= max_model_len {self.max_model_len}, got {longest}"
            )
        for sequence in sequences:
            self.check_ids("sequences", sequence)


def prompt_trees(
    prompts: Sequence[Sequence[int]], sampling: SamplingParams, seeds: Sequence[int], n: int
) -> list[PrefixTree]:
    """Return each prompt as a tree with one empty branch that is sampled n times.

    Raises: ValueError: n < 1, or the number of seeds is not that of prompts.
    """
    if len(seeds) != len(prompts):
        raise ValueError(f"[engine] seeds: expected {len(prompts)}, one per prompt, got {len(seeds)}")
    if n < 1:
        raise ValueError(f"[engine] n: expected >= 1, got {n}")
    return [
        PrefixTree(
            prompt_ids=prompt,
            branches=[Branch(token_ids=(), num_samples=n, max_new_tokens=sampling.max_new_tokens, seed=seed)],
        )
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]


def end_token_ids(tokenizer: Any, generation_config: Any) -> list[int]:
    """Return the end tokens of the tokenizer and of the model's generation config."""
    found: set[int] = set()
    for holder in (tokenizer, generation_config):
        ids = getattr(holder, "eos_token_id", None)
        found.update([ids] if isinstance(ids, int) else ids or [])
    return sorted(found)


def with_special_stops(tokenizer: Any, sampling: SamplingParams) -> SamplingParams:
    """Turn stop strings that are special tokens into stop tokens, since decoded text omits special tokens.

    Raises: ValueError: a string contains a special token and other text, so it could never occur.
    """
    special = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
    special |= {token.content: i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    strings = tuple(string for string in sampling.stop if string not in special)
    for string in strings:
        inside = next((token for token in special if token and token in string), None)
        if inside is not None:
            raise ValueError(
                f"[sampling] stop: expected text, or the special token {inside!r} without other text, got "
                f"{string!r}: decoded text has no special tokens"
            )
    tokens = tuple(special[string] for string in sampling.stop if string in special)
    if not tokens:
        return sampling
    return replace(sampling, stop=strings, stop_token_ids=(*sampling.stop_token_ids, *tokens))
