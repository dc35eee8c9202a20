"""What the reward model reads, as tokens: the task, the problem, tests where it has some, the trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastrl.data.prompts import encode_inside
from fastrl.methods.tracelift.rubric_dimensions import DIMENSIONS
from fastrl.types import Task

KINDS: dict[Task, str] = {"math": "worked steps", "code": "plan of a program"}
"""What a trace of the task is: the <type> block."""


@dataclass(frozen=True, slots=True)
class Rubric:
    """What a reward model judges by, and how much it reads."""

    task: Task
    max_tokens: int

    @property
    def dimensions(self) -> tuple[str, ...]:
        return DIMENSIONS[self.task]


@dataclass(frozen=True, slots=True)
class TraceInput:
    """A trace with its problem, as the reward model reads it."""

    token_ids: tuple[int, ...]
    num_cut: int
    """Tokens left out to fit."""


def encode_traces(
    tokenizer: Any,
    rubric: Rubric,
    problems: Sequence[str],
    traces: Sequence[str],
    tests: Sequence[str | None] | None = None,
) -> list[TraceInput]:
    """The blocks below, joined by newlines; texts without the spaces around them.

        <task>math</task> <type>worked steps</type> <problem> ... </problem> [<tests> ... </tests>]
        <reasoning> ... </reasoning>

    Each text is tokenised by itself, as text: traces of one problem begin with the same tokens, and a special
    token that a trace spells out stays letters. What is longer than rubric.max_tokens loses the beginning of
    its problem; a trace that fills them alone loses the tests, then its own beginning.

    Args:
        tests: of each problem, as text. None: none has any.
    Raises:
        ValueError: numbers of texts differ, or max_tokens does not hold the blocks' names.
    """
    tests = [None] * len(problems) if tests is None else tests
    if not len(problems) == len(traces) == len(tests):
        raise ValueError(
            f"[rubric] traces: expected one a problem and as many tests, got {len(problems)} problems, "
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
    """head, each piece's frame and text, end. Texts lose their beginnings, the first text first."""
    frames = len(head) + len(end) + sum(len(frame) for frame, _ in pieces)
    if frames > max_tokens:
        raise ValueError(
            f"[rubric] max_tokens: expected >= {frames}, the tokens of the blocks' names, got {max_tokens}"
        )
    excess = num_cut = max(0, frames + sum(len(text) for _, text in pieces) - max_tokens)
    token_ids = list(head)
    for frame, text in pieces:
        cut = min(excess, len(text))
        excess -= cut
        token_ids += [*frame, *text[cut:]]
    return TraceInput((*token_ids, *end), num_cut)


def start_tokens(tokenizer: Any) -> list[int]:
    """What the tokenizer itself puts before a text, without an end token."""
    return [token for token in tokenizer.encode("") if token != tokenizer.eos_token_id]
