"""The format reward: 1 if the completion has the required form."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from fastrl.grading.boxes import find_boxes
from fastrl.rewards.batch import CompletionInput, completion_text


class FormatReward:
    r"""Reward 1 for a completion in the required form, otherwise 0.

    Args:
        pattern: regular expression that must match the whole completion, without outer spaces. None: exactly
            one \boxed{...}, not empty, with at most max_tail characters after it.
        max_tail: characters allowed after the box, such as closing brackets, dollar signs or a last word.
    """

    def __init__(self, pattern: str | None = None, max_tail: int = 32) -> None:
        self.__name__ = "format"
        self.pattern = None if pattern is None else re.compile(pattern, re.DOTALL)
        self.max_tail = max_tail

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[CompletionInput],
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        return [float(self._fits(completion_text(completion).strip())) for completion in completions]

    def _fits(self, text: str) -> bool:
        if self.pattern is not None:
            return self.pattern.fullmatch(text) is not None
        if text.count("\\boxed") != 1:
            return False
        boxes, _ = find_boxes(text)  # only closed boxes
        return any(len(text) - box.stop <= self.max_tail for box in boxes)
