"""What every reward does with the batch it is called with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from fastrl.types import Message

CompletionInput = str | list[Message]
LogExtra = Callable[[str, list[Any]], None]
LogMetric = Callable[[str, float], None]


class TrainerState(Protocol):
    """The part of a trainer's state that rewards read."""

    global_step: int


def completion_text(completion: CompletionInput) -> str:
    """The text of a completion, plain or conversational."""
    if isinstance(completion, str):
        return completion
    return "".join(message["content"] for message in completion)


def group_indexes(prompts: Sequence[object]) -> list[int]:
    """Number of each row's group: rows with the same prompt in a row are one group."""
    groups: list[int] = []
    for index, prompt in enumerate(prompts):
        same = index > 0 and prompt == prompts[index - 1]
        groups.append((groups[-1] if groups else -1) + (not same))
    return groups


def group_numbers(prompts: Sequence[object], group_ids: Sequence[int] | None) -> list[int]:
    """Number of each row's group, from 0 in the order of first sight: groups are what the trainer numbers so
    (fastrl does; a problem drawn twice in a row makes two of them), or else what group_indexes finds."""
    if group_ids is None:
        return group_indexes(prompts)
    seen: dict[int, int] = {}
    return [seen.setdefault(group, len(seen)) for group in group_ids]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
