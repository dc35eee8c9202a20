"""The length ramp: a penalty that grows as a completion nears the longest allowed length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class SoftOverlongPunishment:
    """Reward 0, falling to -1 over the last soft_punish_cache tokens before the longest length.

        R(y) = 0                    if |y| <= L - C
        R(y) = (L - C - |y|) / C    if L - C < |y| <= L
        R(y) = -1                   if |y| > L

    |y| is the number of sampled tokens, the end token among them.

    Args:
        max_completion_len: L, in tokens.
        soft_punish_cache: C, in tokens; 0 < C <= L.
    Raises:
        ValueError: C is out of range.
    Source: DAPO, arXiv:2503.14476, equation 13; TRL's get_soft_overlong_punishment.
    """

    def __init__(self, max_completion_len: int, soft_punish_cache: int) -> None:
        if not 0 < soft_punish_cache <= max_completion_len:
            raise ValueError(
                f"[reward] soft_punish_cache: expected a number in [1, {max_completion_len}], the longest "
                f"completion, got {soft_punish_cache}"
            )
        self.__name__ = "soft_overlong_punishment"
        self.max_completion_len, self.soft_punish_cache = max_completion_len, soft_punish_cache

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        **columns: Any,
    ) -> list[float | None]:
        return [self._of_length(len(ids)) for ids in completion_ids]

    def _of_length(self, length: int) -> float:
        free = self.max_completion_len - self.soft_punish_cache
        if length <= free:
            return 0.0
        return max(-1.0, (free - length) / self.soft_punish_cache)
