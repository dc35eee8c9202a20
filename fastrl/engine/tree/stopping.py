"""When a completion ends: end tokens, stop tokens, stop strings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrl.engine.tree.kv_pool import Ints
from fastrl.types import SamplingParams

CONTEXT = 8
"""Characters before a stop string: the first token of a part may lose a space or be half a character."""
BYTES_OF_CHARACTER = 4


class Vocabulary:
    """A tokenizer's tokens and their texts, for a model with `size` logits."""

    def __init__(self, tokenizer: Any, size: int) -> None:
        self.tokenizer, self.size = tokenizer, size
        self._found: dict[frozenset[str], NDArray[np.bool_]] = {}

    def may_finish(self, strings: Sequence[str]) -> NDArray[np.bool_]:
        """Return [size] bool: the tokens that may bring the last character of one of the strings. Kept."""
        last = frozenset(string[-1] for string in strings)
        if last not in self._found:
            self._found[last] = self._with_one_of(last)
        return self._found[last]

    def _with_one_of(self, characters: frozenset[str]) -> NDArray[np.bool_]:
        # a token's text alone may lack a space that it has in a sentence, or be a piece of a character
        if any(not c.isascii() or c.isspace() for c in characters):
            return np.ones(self.size, dtype=bool)
        known = min(self.size, len(self.tokenizer))
        texts = self.tokenizer.batch_decode([[token] for token in range(known)])
        found = np.zeros(self.size, dtype=bool)
        found[:known] = [not characters.isdisjoint(text) for text in texts]
        return found


class StopRule:
    """Finds the token at which a completion ends.

    Only tokens whose text could finish a stop string make the host decode anything, and then no more than the
    end of the text: the cost of a token does not grow with the completion.
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
        """Return the index within new [n, w] of the token that ends each request, or w.

        tokens [N, ...] holds every request from its first token on; new[i] is the part of request
        requests[i] from starts[i] on.
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
        """Return whether a string ends in the last token; earlier ones were looked for at their own token."""
        text = self._tail(ids)
        return any(string in text for string in self.strings)

    def _tail(self, ids: NDArray[np.int32]) -> str:
        """The end of the text: the longest string and CONTEXT characters more, or all of a shorter text.

        A character has up to four tokens, and special ones have no text, so the part that is decoded grows
        until it has enough.
        """
        enough = self.longest + CONTEXT
        width = BYTES_OF_CHARACTER * enough
        text: str = self.tokenizer.decode(ids[-width:].tolist(), skip_special_tokens=True)
        while len(text) < enough and width < len(ids):
            width *= 2
            text = self.tokenizer.decode(ids[-width:].tolist(), skip_special_tokens=True)
        return text
