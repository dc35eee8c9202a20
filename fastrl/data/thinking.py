"""Thinking tags: remove the thoughts from what an assistant says."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fastrl.types import Message

Tags = tuple[str, str]
"""The opening and the closing tag of a thought, such as <think> and </think>."""
SPACES = re.compile(r"\s*")


def without_thoughts(text: str, tags: Tags) -> str | None:
    """Remove every <think>...</think> from a text, and the white space after it.

    None: it has no thought, or one whose opening or closing tag is missing.

    "<think>7+5=2</think>\\n\\nIt is 2." -> "It is 2."
    """
    kept, place = [], 0
    while True:
        begin = text.find(tags[0], place)
        end = text.find(tags[1], begin + len(tags[0])) if begin >= 0 else -1
        if end < 0:
            break
        kept.append(text[place:begin])
        spaces = SPACES.match(text, end + len(tags[1]))
        place = len(text) if spaces is None else spaces.end()
    left = "".join([*kept, text[place:]])
    return None if not kept or any(tag in left for tag in tags) else left


def drop_thoughts(messages: Sequence[Message], tags: Tags, last_only: bool = False) -> list[Message] | None:
    """Remove the thoughts from the assistant's turns.

    Return None if an assistant turn has no thought, or nothing else. last_only: earlier turns may have none.
    """
    kept: list[Message] = []
    for place, message in enumerate(messages):
        content = message["content"]
        if message["role"] == "assistant":
            left = without_thoughts(content, tags)
            optional = last_only and place < len(messages) - 1
            if not optional and not (left or "").strip():
                return None
            content = content if left is None else left
        kept.append(Message(role=message["role"], content=content))
    return kept
