"""Conversations: read them from cells, find the question, put in a system prompt and a template."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from fastrl.data.cells import lookup, parsed
from fastrl.data.golds import final_gold, worked_gold
from fastrl.data.rows import Row
from fastrl.types import Message

WRITTEN_TURNS = re.compile(r"""\s*\[\s*\{\s*["'](?:role|content)["']\s*:""")
"""Pattern of the beginning of a list of messages that is written as text."""
ANSWERS = ("answer", "ground_truth", "solution")


def as_messages(prompt: Any) -> list[Message]:
    """Return messages from a list of them, from such a list written as JSON, or from a plain question."""
    turns = parsed(prompt) if isinstance(prompt, str) and WRITTEN_TURNS.match(prompt) else prompt
    if turns is prompt and isinstance(prompt, str) and prompt.strip():
        if not WRITTEN_TURNS.match(prompt):
            return [{"role": "user", "content": prompt}]
    elif isinstance(turns, Sequence) and turns and all(_is_message(turn) for turn in turns):
        return [{"role": turn["role"], "content": turn["content"]} for turn in turns]
    shown = repr(prompt)
    raise ValueError(
        f"question: expected text, or a list of messages with role and content, got {shown[:200]}"
    )


def asked(conversation: Any) -> list[Message]:
    """Return the conversation up to the last user turn, without the assistant's answer to it."""
    messages = as_messages(conversation)
    last = last_of_user(messages)
    return messages[: last + 1]


def assistant_gold(row: Row) -> str:
    """Return the gold answer of a row of messages: its answer column, or worked_gold of the last turn."""
    for name in (*ANSWERS, "reward_model.ground_truth"):
        if lookup(row, name) is not None:
            return final_gold(lookup(row, name))
    last = as_messages(row["messages"])[-1]
    if last["role"] != "assistant":
        raise ValueError(
            f"gold answer: expected one of the columns {', '.join(ANSWERS)}, or an assistant's turn at the "
            f"end of messages, got a turn of {last['role']!r}"
        )
    return worked_gold(last["content"])


def with_system_prompt(messages: list[Message], system_prompt: str | None) -> list[Message]:
    """Return the conversation with this system turn instead of its own; None: unchanged."""
    if system_prompt is None:
        return messages
    first: Message = {"role": "system", "content": system_prompt}
    return [first, *(messages[1:] if messages[0]["role"] == "system" else messages)]


def merged_system(messages: list[Message]) -> list[Message]:
    """Put the system turn's text before the first user turn's, for templates without a system role."""
    if messages[0]["role"] != "system":
        return messages
    system, *rest = messages
    first = next((i for i, message in enumerate(rest) if message["role"] == "user"), None)
    if first is None:
        raise ValueError("question: expected a user's turn to put the system's text into, got none")
    said: Message = {"role": "user", "content": f"{system['content']}\n\n{rest[first]['content']}"}
    return [*rest[:first], said, *rest[first + 1 :]]


def with_template(messages: list[Message], template: str | None) -> list[Message]:
    """Replace the last user message by the template, with the message's text for {question}."""
    if template is None:
        return messages
    last = last_of_user(messages)
    said: Message = {"role": "user", "content": template.replace("{question}", messages[last]["content"])}
    return [*messages[:last], said, *messages[last + 1 :]]


def last_question(messages: Sequence[Message]) -> str:
    """Return the text of the last user message, or of the last message if there is no user message."""
    return messages[last_of_user(messages)]["content"]


def last_of_user(messages: Sequence[Message]) -> int:
    """Return the index of the last user turn, or of the last turn if there is no user turn."""
    last = len(messages) - 1
    return max((i for i, message in enumerate(messages) if message["role"] == "user"), default=last)


def _is_message(turn: object) -> bool:
    return isinstance(turn, dict) and all(isinstance(turn.get(key), str) for key in ("role", "content"))
