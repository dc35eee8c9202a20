"""Cuts of rollouts: the position, and the prefix in the tokens of a receiver with another tokenizer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastrl.data.prompts import encode_inside
from fastrl.grading import answer_start
from fastrl.runtime.seeding import seed_of

BROKEN = "\ufffd"  # decoders write this for the bytes of an incomplete character


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A prefix of a rollout."""

    tau: float
    """Fraction of the rollout to keep, in (0, 1]."""
    position: int
    """Number of tokens kept."""
    text: str
    """Text of the kept tokens, without an incomplete last character."""
    receiver_ids: list[int]
    """The text in the receiver's tokens."""
    has_answer: bool
    """True if the answer has begun in the text."""


def draw_tau(*path: int | str) -> float:
    """Return tau ~ U(0, 1], one of k / 2^53 for k = 1 ... 2^53, as a function of the path only."""
    return ((seed_of(*path) >> 10) + 1) / 2**53


class Cutter:
    """Truncation of the policy's rollouts for a receiver.

        position = floor(tau * length); with strip_answer at most the start of the first answer marker

    The length excludes the end token. The kept tokens are decoded, an incomplete last character is dropped,
    and the text is encoded with the receiver's tokenizer. With equal vocabularies the ids are used directly,
    and the position moves back over an incomplete character.
    """

    def __init__(self, policy_tokenizer: Any, receiver_tokenizer: Any, *, strip_answer: bool) -> None:
        self.policy_tokenizer = policy_tokenizer
        self.receiver_tokenizer = receiver_tokenizer
        self.strip_answer = strip_answer
        self.same_vocabulary = (
            policy_tokenizer is receiver_tokenizer
            or policy_tokenizer.get_vocab() == receiver_tokenizer.get_vocab()
        )

    def cut(self, completion_ids: Sequence[int], taus: Sequence[float]) -> list[Cut]:
        """Return one cut per tau."""
        token_ids = list(completion_ids)
        while token_ids and not self._text(token_ids[-1:]):
            token_ids.pop()
        start = answer_start(self._text(token_ids))
        limit = self._before(token_ids, start) if self.strip_answer else len(token_ids)
        return [
            self._cut_at(token_ids, tau, min(math.floor(tau * len(token_ids)), limit), start) for tau in taus
        ]

    def _cut_at(self, token_ids: list[int], tau: float, position: int, start: int | None) -> Cut:
        text = self._text(token_ids[:position])
        if self.same_vocabulary:
            while text.endswith(BROKEN):  # a run of them goes at once
                position = self._before(token_ids[:position], len(text.rstrip(BROKEN)))
                text = self._text(token_ids[:position])
            receiver_ids = token_ids[:position]
        else:
            text = text.rstrip(BROKEN)
            receiver_ids = encode_inside(self.receiver_tokenizer, text)
        # a truncated heading may look like an answer, so `start` comes from the whole rollout
        has_answer = start is not None and len(text) > start and answer_start(text) is not None
        return Cut(tau=tau, position=position, text=text, receiver_ids=receiver_ids, has_answer=has_answer)

    def _before(self, token_ids: list[int], start: int | None) -> int:
        """Return the largest number of tokens whose text ends before the answer starts."""
        if start is None:
            return len(token_ids)
        low, high = 0, len(token_ids)
        while low < high:
            middle = (low + high + 1) // 2
            if len(self._text(token_ids[:middle])) <= start:
                low = middle
            else:
                high = middle - 1
        return low

    def _text(self, token_ids: list[int]) -> str:
        text: str = self.policy_tokenizer.decode(
            token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text
