"""Tokenizes the reward model's input: task, problem, tests if there are any, and trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastrl.data.prompts import encode_inside
from fastrl.methods.tracelift.rubric_dimensions import DIMENSIONS
from fastrl.types import Task

KINDS: dict[Task, str] = {"math": "worked steps", "code": "plan of a program"}
"""Content of the <type> block, per task."""


@dataclass(frozen=True, slots=True)
class Rubric:
    """A reward model's task and its longest input."""

    task: Task
    max_tokens: int
    """Longer inputs are truncated."""

    @property
    def dimensions(self) -> tuple[str, ...]:
        return DIMENSIONS[self.task]


@dataclass(frozen=True, slots=True)
class TraceInput:
    """The tokens of a trace with its problem."""

    token_ids: tuple[int, ...]
    num_cut: int
    """Tokens removed to fit max_tokens."""


def encode_traces(
    tokenizer: Any,
    rubric: Rubric,
    problems: Sequence[str],
    traces: Sequence[str],
    tests: Sequence[str | None] | None = None,
) -> list[TraceInput]:
    """Encode the blocks below, joined by newlines, with stripped texts.

        <task>math</task> <type>worked steps</type> <problem> ... </problem> [<tests> ... </tests>]
        <reasoning> ... </reasoning>

    Each text is tokenized separately as plain text: inputs of one problem share their first tokens, and a
    trace cannot spell a special token. An input longer than rubric.max_tokens loses the beginning of the
    problem, then of the tests, then of the trace.

    Args:
        tests: each problem's tests as text. None: no problem has any.
    Raises:
        ValueError: the lists' lengths differ, or max_tokens is too small for the tags.
    """
    tests = [None] * len(problems) if tests is None else tests
    if not len(problems) == len(traces) == len(tests):
        raise ValueError(
            f"[rubric] traces: expected as many as problems and tests, got {len(problems)} problems, "
            f"{len(traces)} traces, {len(tests)} tests"
        )
    known: dict[str, list[int]] = {}

    def tokens(text: str) -> list[int]:
        if text not in known:
            known[text] = encode_inside(tokenizer, text)
        return known[text]

    start = start_tokens(tokenizer)
    head = f"<task>{rubric.task}</task>\n<type>{KINDS[rubric.task]}</type>\n<problem>\n"
    inputs = []
    for problem, test, trace in zip(problems, tests, traces, strict=True):
        texts = [("", problem)] if test is None else [("", problem), ("\n</problem>\n<tests>\n", test)]
        closing = "\n</problem>\n" if test is None else "\n</tests>\n"
        texts += [(closing + "<reasoning>\n", trace)]
        pieces = [(tokens(frame) if frame else [], tokens(text.strip())) for frame, text in texts]
        inputs.append(fitted([*start, *tokens(head)], pieces, tokens("\n</reasoning>"), rubric.max_tokens))
    return inputs


def fitted(
    head: list[int], pieces: Sequence[tuple[list[int], list[int]]], end: list[int], max_tokens: int
) -> TraceInput:
    """Join head, each piece's frame and text, and end; truncate beginnings of texts, the first text first."""
    frames = len(head) + len(end) + sum(len(frame) for frame, _ in pieces)
    if frames > max_tokens:
        raise ValueError(
            f"[rubric] max_tokens: expected >= {frames}, the number of tokens of the tags, got {max_tokens}"
        )
    excess = num_cut = max(0, frames + sum(len(text) for _, text in pieces) - max_tokens)
    token_ids = list(head)
    for frame, text in pieces:
        cut = min(excess, len(text))
        excess -= cut
        token_ids += [*frame, *text[cut:]]
    return TraceInput((*token_ids, *end), num_cut)


def start_tokens(tokenizer: Any) -> list[int]:
    """Return the tokens that the tokenizer puts before a text, such as BOS, without EOS."""
    return [token for token in tokenizer.encode("") if token != tokenizer.eos_token_id]
