"""Problems out of rows: which column is the question, which one the gold answer, and what else goes along."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fastrl.config import DataConfig
from fastrl.data.rows import Row, read_rows
from fastrl.types import Message

PROMPT_COLUMNS = ("prompt", "question", "problem", "Problem", "Question")
# `solution` comes last: beside an answer column it holds the worked solution, alone it is the gold answer
SOLUTION_COLUMNS = (
    "answer",
    "Answer",
    "ground_truth",
    "Short Answer",
    "reward_model.ground_truth",
    "solution",
)
THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
# arguments that every reward is called with, and TRL's names for what they are made of
CALLED_WITH = (
    "prompts",
    "completions",
    "completion_ids",
    "trainer_state",
    "log_extra",
    "log_metric",
    "rollout_ids",
    "group_ids",
    "problem_ids",
    "voters",
)
RESERVED = frozenset((*CALLED_WITH, "prompt", "completion"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A question with its gold answer."""

    index: int
    """Row in the file, from 0."""
    messages: list[Message]
    solution: str
    """The gold answer, as text."""
    question: str = ""
    """The question alone, as the file has it: what the last user message said before data.prompt_template
    took its place. Left out, it is that message."""
    columns: dict[str, Any] = field(default_factory=dict)
    """The file's row as it is."""

    def __post_init__(self) -> None:
        if not self.question:
            object.__setattr__(self, "question", last_question(self.messages))


def load_problems(config: DataConfig) -> list[Problem]:
    """The problems of a JSONL, Parquet or CSV file.

    The question is the first column found of prompt, question, problem, Problem, Question; the gold answer
    the first of answer, Answer, ground_truth, Short Answer, reward_model.ground_truth, solution.
    config.prompt_column and config.solution_column overrule (a dot descends into a dict).
    config.system_prompt takes the place of a system message that the file has, and config.prompt_template,
    with the question in it, that of the last user message.

    Raises:
        FileNotFoundError: no such file.
        ValueError: unknown ending, empty file, no question or gold column, or a row whose question or gold
            answer is missing; each names the file, the row or the columns found.
    """
    rows = read_rows(config.path, config.limit)
    prompt_column = _choose(config, rows, "prompt_column", PROMPT_COLUMNS)
    solution_column = _choose(config, rows, "solution_column", SOLUTION_COLUMNS)
    problems = []
    for index, row in enumerate(rows):
        try:
            messages = with_system_prompt(as_messages(_lookup(row, prompt_column)), config.system_prompt)
            solution = gold_text(_lookup(row, solution_column))
        except ValueError as error:
            raise ValueError(f"[data] {config.path} row {index + 1}: {error}") from error
        templated = with_template(messages, config.prompt_template)
        question = last_question(messages)
        problems.append(
            Problem(index=index, messages=templated, solution=solution, question=question, columns=row)
        )
    return problems


def reward_columns(problems: Sequence[Problem]) -> dict[str, list[Any]]:
    """What rewards get by name: `solution`, the gold answer, every column of their files, and `question`, the
    question alone, where a row has no text in a column of that name."""
    names = {name: None for problem in problems for name in problem.columns if name not in RESERVED}
    columns = {name: [problem.columns.get(name) for problem in problems] for name in names}
    stated = [problem.columns.get("question") for problem in problems]
    questions = [
        text if isinstance(text, str) else problem.question
        for text, problem in zip(stated, problems, strict=True)
    ]
    return columns | {"solution": [problem.solution for problem in problems], "question": questions}


def reward_row(problem: Problem) -> dict[str, Any]:
    """What rewards get of one problem."""
    return {name: values[0] for name, values in reward_columns([problem]).items()}


def as_messages(prompt: Any) -> list[Message]:
    """A conversation, from one or from a plain question."""
    if isinstance(prompt, str) and prompt.strip():
        return [{"role": "user", "content": prompt}]
    if isinstance(prompt, Sequence) and prompt and all(_is_message(turn) for turn in prompt):
        return [{"role": turn["role"], "content": turn["content"]} for turn in prompt]
    raise ValueError(f"question: expected text, or a list of messages with role and content, got {prompt!r}")


def with_system_prompt(messages: list[Message], system_prompt: str | None) -> list[Message]:
    if system_prompt is None:
        return messages
    first: Message = {"role": "system", "content": system_prompt}
    return [first, *(messages[1:] if messages[0]["role"] == "system" else messages)]


def with_template(messages: list[Message], template: str | None) -> list[Message]:
    """The last user message becomes the template, with what it said in the place of {question}."""
    if template is None:
        return messages
    last = _last_of_user(messages)
    said: Message = {"role": "user", "content": template.replace("{question}", messages[last]["content"])}
    return [*messages[:last], said, *messages[last + 1 :]]


def last_question(messages: Sequence[Message]) -> str:
    """What the user said last; where none did, the last message."""
    return messages[_last_of_user(messages)]["content"]


def _last_of_user(messages: Sequence[Message]) -> int:
    last = len(messages) - 1
    return max((i for i, message in enumerate(messages) if message["role"] == "user"), default=last)


def gold_text(value: object) -> str:
    """A gold answer as text: what follows "####" less the commas of its thousands; the only item of a list;
    27 for 27.0."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _only_item_of_json_list(value)
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 1:
        value = value[0]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return repr(value)
    if isinstance(value, str):
        _, mark, after = value.rpartition("####")
        text = (THOUSANDS.sub("", after) if mark else value).strip()
        if text:
            return text
    raise ValueError(f"gold answer: expected text or a number, got {value!r}")


def _only_item_of_json_list(text: str) -> object:
    # an interval such as [-6,5] is JSON too, so only a list of one string is taken apart
    try:
        items = json.loads(text)
    except json.JSONDecodeError:
        return text
    return items[0] if isinstance(items, list) and len(items) == 1 and isinstance(items[0], str) else text


def _is_message(turn: object) -> bool:
    return isinstance(turn, dict) and all(isinstance(turn.get(key), str) for key in ("role", "content"))


def _lookup(row: Row, name: str) -> Any:
    """row[name], or row["a"]["b"] for "a.b"; None where there is none."""
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _choose(config: DataConfig, rows: Sequence[Row], option: str, candidates: Sequence[str]) -> str:
    chosen: str | None = getattr(config, option)
    names = candidates if chosen is None else (chosen,)
    found = next((name for name in names if any(_lookup(row, name) is not None for row in rows)), None)
    if found is None:
        have = ", ".join(repr(name) for name in dict.fromkeys(name for row in rows for name in row))
        raise ValueError(
            f"[data] {option}: expected a column named {' or '.join(names)}, got columns {have} "
            f"in {config.path}; set data.{option}"
        )
    return found
