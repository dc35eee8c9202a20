"""Problems: find the columns of question and gold answer in a file, and keep the others for rewards."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from fastrl.config import DataConfig
from fastrl.data.cells import lookup
from fastrl.data.golds import final_gold, gold_text, listed_gold, worked_gold
from fastrl.data.layouts import Layout, find_layout, layout_called, missing_columns
from fastrl.data.program_rows import any_text
from fastrl.data.rows import FileRow, Row, read_file
from fastrl.data.turns import as_messages, last_question, merged_system, with_system_prompt, with_template
from fastrl.types import Message

__all__ = [
    "CALLED_WITH", "Problem", "ProblemFile", "as_messages", "gold_text", "last_question", "load_problems",
    "program_columns", "read_problems", "reward_columns", "reward_row", "with_system_prompt", "with_template",
]  # fmt: skip

PROMPT_COLUMNS = ("prompt", "question", "problem", "Problem", "Question")
# `solution` comes last: in a file with an answer column it is the worked solution, else the gold answer
SOLUTION_COLUMNS = (
    "answer",
    "Answer",
    "final_answer",
    "ground_truth",
    "Short Answer",
    "reward_model.ground_truth",
    "solution",
)
GENERAL = "general"
GRADED = ("gold", "num_correct", "num_samples")
"""Columns that subset and hard_set add; `gold` is the answer that the samples were graded against."""
# arguments that every reward is called with; a file's columns of these names are not passed
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
    "finish_reasons",
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
    """The question as in the file: the last user message before data.prompt_template is applied. Empty: taken
    from the messages."""
    columns: dict[str, Any] = field(default_factory=dict)
    """The file's row, with the columns that its layout makes."""

    def __post_init__(self) -> None:
        if not self.question:
            object.__setattr__(self, "question", last_question(self.messages))


@dataclass(frozen=True, slots=True)
class ProblemFile:
    """The problems of a file, with its layout and the rows that were skipped."""

    problems: list[Problem]
    layout: Layout
    bad_rows: list[str]
    """The error of each skipped row: one line with file, row and column."""


def load_problems(config: DataConfig) -> list[Problem]:
    """Read the problems of a JSONL, Parquet or CSV file.

    If config.layout is auto, use the first layout of LAYOUTS whose columns the file has. If none fits, the
    question is the first column found of prompt, question, problem, Problem, Question; the gold answer the
    first of answer, Answer, final_answer, ground_truth, Short Answer, reward_model.ground_truth, solution.
    In a file of a subset or hard_set stage the gold answer is the column gold, against which it graded.
    config.prompt_column and config.solution_column override them (a dot descends into a dict).
    config.system_prompt replaces the file's system message; config.prompt_template, filled with the question,
    replaces the last user message.

    A bad row is an error; with config.on_bad_row skip it is left out, and a warning counts them.

    Raises:
        FileNotFoundError: no such file.
        ValueError: unknown ending, empty file, no question or gold column, or a row whose question or gold
            answer is missing; each names the file, the row and column, or the columns found.
    """
    read = read_problems(config)
    if read.bad_rows:
        warnings.warn(
            f"[data] {config.path}: {len(read.bad_rows)} of {len(read.bad_rows) + len(read.problems)} rows "
            f"skipped, as data.on_bad_row says; the first: {read.bad_rows[0]}",
            stacklevel=2,
        )
    return read.problems


def read_problems(config: DataConfig) -> ProblemFile:
    """Read like load_problems, without a warning; also return the layout and the skipped rows' errors."""
    rows = read_file(config.path, config.limit)
    bad = [f"[data] {each.place}: {each.fault}" for each in rows if each.fault is not None]
    if bad and config.on_bad_row == "error":
        raise ValueError(bad[0])
    readable = [each for each in rows if each.fault is None]
    layout = choose_layout(config, rows_read := [each.row for each in readable])
    if config.solution_column is None and all(any(name in row for row in rows_read) for name in GRADED):
        layout = replace(layout, solution="gold", gold=any_text)
    problems = []
    for each in readable:
        try:
            problems.append(problem_of(each, layout, config))
        except ValueError as error:
            reason = f"[data] {config.path} row {each.number}, {error}"
            if config.on_bad_row == "error":
                raise ValueError(reason) from error
            bad.append(reason)
    if not problems:
        raise ValueError(f"[data] path: expected at least one good row, got {len(bad)} bad ones: {bad[0]}")
    return ProblemFile(problems, layout, bad)


def problem_of(each: FileRow, layout: Layout, config: DataConfig) -> Problem:
    """Return a row's problem. Raises: ValueError: names the column and its fault."""
    columns = each.row
    if layout.make is not None:
        named = ", ".join(map(repr, layout.known_by))
        columns = columns | _in_column(named, partial(layout.make, each.row, config.option_seed))
    stated = _in_column(repr(layout.question), lambda: _conversation(lookup(columns, layout.question)))
    gold = _in_column(repr(layout.solution), lambda: layout.gold(lookup(columns, layout.solution)))
    messages = with_system_prompt(stated, config.system_prompt)
    shown = with_template(messages, config.prompt_template)
    return Problem(
        index=each.number - 1,
        messages=merged_system(shown) if config.merge_system else shown,
        solution=gold,
        question=last_question(messages),
        columns=columns,
    )


def _conversation(cell: Any) -> list[Message]:
    messages = as_messages(cell)
    if messages[-1]["role"] == "assistant":
        raise ValueError(
            "question: expected a conversation that ends before the assistant answers, got one that ends "
            "in an assistant's turn"
        )
    return messages


def _in_column(column: str, read: Any) -> Any:
    """Return read(); turn its errors, a missing key too, into a ValueError that names the column."""
    try:
        return read()
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = error if isinstance(error, ValueError) else f"expected another form, got {error!r}"
        raise ValueError(f"column {column}: {reason}") from error


def choose_layout(config: DataConfig, rows: Sequence[Row]) -> Layout:
    """Return the layout that config names, else the first that fits the rows, else the general rule's."""
    columns_named = config.prompt_column is not None or config.solution_column is not None
    if config.layout not in ("auto", GENERAL):
        layout = layout_called(config.layout)
        if missing := missing_columns(layout, rows):
            have = ", ".join(map(repr, _columns_of(rows)))
            raise ValueError(
                f"[data] layout: expected columns {', '.join(missing)} for {layout.name}, got columns {have} "
                f"in {config.path}"
            )
        return layout
    if config.layout == "auto" and not columns_named and (found := find_layout(rows)) is not None:
        return found
    question = _choose(config, rows, "prompt_column", PROMPT_COLUMNS)
    solution = _choose(config, rows, "solution_column", SOLUTION_COLUMNS)
    return Layout(name=GENERAL, question=question, solution=solution, gold=_general_gold(solution, rows))


def _general_gold(solution: str, rows: Sequence[Row]) -> Any:
    if any(row.get("tests") is not None or row.get("test") is not None for row in rows):
        return gold_text  # programs: tests decide; a reference program has several lines
    return {"solution": worked_gold, "final_answer": listed_gold}.get(solution, final_gold)


def program_columns(columns: Mapping[str, Any], question: object) -> dict[str, Any]:
    """Return the columns that ProgramTests reads: the row, and as prompt the source to run before a program.

    That source is the row's program_prompt, else its own column prompt, else the question.
    """
    given = {"prompt": question, **columns}
    return given | {"prompt": columns["program_prompt"]} if "program_prompt" in columns else given


def reward_columns(problems: Sequence[Problem]) -> dict[str, list[Any]]:
    """Return the columns that rewards receive by name: those of the files, `solution` and `question`.

    `solution` is the gold answer. `question` is the file's column if it holds text, else the question without
    system prompt and template.
    """
    names = {name: None for problem in problems for name in problem.columns if name not in RESERVED}
    columns = {name: [problem.columns.get(name) for problem in problems] for name in names}
    stated = [problem.columns.get("question") for problem in problems]
    questions = [
        text if isinstance(text, str) else problem.question
        for text, problem in zip(stated, problems, strict=True)
    ]
    return columns | {"solution": [problem.solution for problem in problems], "question": questions}


def reward_row(problem: Problem) -> dict[str, Any]:
    """Return the columns that rewards receive for one problem."""
    return {name: values[0] for name, values in reward_columns([problem]).items()}


def _choose(config: DataConfig, rows: Sequence[Row], option: str, candidates: Sequence[str]) -> str:
    chosen: str | None = getattr(config, option)
    names = candidates if chosen is None else (chosen,)
    found = next((name for name in names if any(lookup(row, name) is not None for row in rows)), None)
    if found is None:
        have = ", ".join(map(repr, _columns_of(rows)))
        raise ValueError(
            f"[data] {option}: expected a column named {' or '.join(names)}, got columns {have} "
            f"in {config.path}; set data.{option}"
        )
    return found


def _columns_of(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))
