"""The stop rule of completions: end tokens, stop tokens, stop strings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrl.engine.tree.kv_pool import Ints
from fastrl.types import SamplingParams

CONTEXT = 8
"""Extra characters decoded before a stop string; decoding may lose a space or half a character at the cut."""
BYTES_OF_CHARACTER = 4


class Vocabulary:
    """A tokenizer's tokens, for a model with `size` logits."""

    def __init__(self, tokenizer: Any, size: int) -> None:
        self.tokenizer, self.size = tokenizer, size
        self._found: dict[frozenset[str], NDArray[np.bool_]] = {}

    def may_finish(self, strings: Sequence[str]) -> NDArray[np.bool_]:
        """Return [size] bool, True for tokens that may contain the last character of a string; cached."""
        last = frozenset(string[-1] for string in strings)
        if last not in self._found:
            self._found[last] = self._with_one_of(last)
        return self._found[last]

    def _with_one_of(self, characters: frozenset[str]) -> NDArray[np.bool_]:
        # decoded by itself, a token may lose a space or be part of a multi-byte character
        if any(not c.isascii() or c.isspace() for c in characters):
            return np.ones(self.size, dtype=bool)
        known = min(self.size, len(self.tokenizer))
        texts = self.tokenizer.batch_decode([[token] for token in range(known)])
        found = np.zeros(self.size, dtype=bool)
        found[:known] = [not characters.isdisjoint(text) for text in texts]
        return found


class StopRule:
    """Finder of the token that ends a completion.

    Text is decoded only after a token that could finish a stop string, and only the end of it, so the cost
    per token does not grow with the completion.
    """

    def __init__(self, vocabulary: Vocabulary, end_ids: Sequence[int], sampling: SamplingParams) -> None:
        vocab_size = vocabulary.size
        self.tokenizer = vocabulary.tokenizer
        self.strings = sampling.stop
        self.longest = max(map(len, self.strings), default=0)
        self.ends = np.zeros(vocab_size, dtype=bool)
        self.ends[[t for t in (*end_ids, *sampling.stop_token_ids) if t < vocab_size]] = True
        self.may_finish = vocabulary.may_finish(self.strings) if self.strings else None

    def first_stop(self, new: Ints, tokens: NDArray[np.int32], requests: Ints, starts: Ints) -> Ints:
        """Return [n], the index within new [n, w] of the token that ends each request; w if none does.

        Args:
            tokens: [N, ...] all tokens of every request; new[i] is the part of requests[i] from starts[i] on.
        """
        width = new.shape[1]
        ended = self.ends[new]
        stop: Ints = np.where(ended.any(1), ended.argmax(1), width)
        if self.may_finish is not None:
            candidates = self.may_finish[new] & (np.arange(width) < stop[:, None])
            for i, column in zip(*np.nonzero(candidates), strict=True):
                if column < stop[i] and self._has_string(tokens[requests[i], : starts[i] + column + 1]):
                    stop[i] = column
        return stop

    def _has_string(self, ids: NDArray[np.int32]) -> bool:
        """Return True if a stop string ends in the last token; earlier tokens have been checked before."""
        text = self._tail(ids)
        return any(string in text for string in self.strings)

    def _tail(self, ids: NDArray[np.int32]) -> str:
        """Return the last (longest stop string + CONTEXT) characters of the text, or all of a shorter text.

        A character may take four tokens, and special tokens have no text, so more tokens are decoded until
        there are enough characters.
        """
        enough = self.longest + CONTEXT
        width = BYTES_OF_CHARACTER * enough
        text: str = self.tokenizer.decode(ids[-width:].tolist(), skip_special_tokens=True)
        while len(text) < enough and width < len(ids):
            width *= 2
            text = self.tokenizer.decode(ids[-width:].tolist(), skip_special_tokens=True)
        return text
