"""Types and helpers for the batch that a reward is called with."""

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
    """Return the text of a completion, plain or conversational."""
    if isinstance(completion, str):
        return completion
    return "".join(message["content"] for message in completion)


def group_indexes(prompts: Sequence[object]) -> list[int]:
    """Return the group number of each completion: consecutive equal prompts are one group."""
    groups: list[int] = []
    for index, prompt in enumerate(prompts):
        same = index > 0 and prompt == prompts[index - 1]
        groups.append((groups[-1] if groups else -1) + (not same))
    return groups


def group_numbers(prompts: Sequence[object], group_ids: Sequence[int] | None) -> list[int]:
    """Return the group number of each completion, from 0 in order of first occurrence.

    Groups are those of the trainer's group_ids, which separate a problem that is drawn twice in a row;
    without them those of group_indexes.
    """
    if group_ids is None:
        return group_indexes(prompts)
    seen: dict[int, int] = {}
    return [seen.setdefault(group, len(seen)) for group in group_ids]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
