"""Prompts of an executor: the problem, optionally with a trace, and the beginning of its answer."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fastrl.config import ExecutorConfig
from fastrl.types import Message, Task

PLACE = re.compile(r"\{(question|trace)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """Default prompts of a task."""

    system: str
    prompt: str
    prompt_with_trace: str
    begin: str
    """The answer's first words."""


# both prompts begin with the question, so that they share its tokens
WORDINGS: dict[Task, Wording] = {
    "math": Wording(
        system="You work out school mathematics problems and reply with one number: the result.",
        prompt="{question}\n\nReply with the result alone.",
        prompt_with_trace=(
            "{question}\n\nSomebody has thought about it:\n{trace}\n\n"
            "Use these thoughts as far as they help. Reply with the result alone."
        ),
        begin="Final answer:",
    ),
    "code": Wording(
        system="You are a Python 3 programmer and reply with one complete program, without explanations.",
        prompt="{question}\n\nReply with the whole program in a code block.",
        prompt_with_trace=(
            "{question}\n\nSomebody has thought about it:\n{trace}\n\n"
            "Use these thoughts as far as they help. Reply with the whole program in a code block."
        ),
        begin="```python\n",
    ),
}


class ExecutorPrompts:
    """Renders the executor's messages from configured templates, by default the task's own.

    Question and trace are truncated at the end to max_question_chars and max_trace_chars. An empty trace
    counts as no trace.
    """

    def __init__(self, config: ExecutorConfig) -> None:
        own = WORDINGS[config.task]
        self.config = config
        self.system = own.system if config.system is None else config.system
        self.prompt = own.prompt if config.prompt is None else config.prompt
        with_trace = config.prompt_with_trace
        self.prompt_with_trace = own.prompt_with_trace if with_trace is None else with_trace
        self.begin = own.begin if config.begin is None else config.begin

    def messages(self, question: str, trace: str | None) -> list[Message]:
        """Return the executor's chat messages; a trace of None means no trace."""
        values = {
            "question": question[: self.config.max_question_chars],
            "trace": (trace or "")[: self.config.max_trace_chars],
        }
        template = self.prompt_with_trace if values["trace"] else self.prompt
        # one pass, so that a question with {trace} in it stays as it is
        content = PLACE.sub(lambda place: values[place[1]], template)
        request: Message = {"role": "user", "content": content}
        return [{"role": "system", "content": self.system}, request] if self.system else [request]
