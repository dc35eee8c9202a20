"""Layouts of known data sets: the columns that identify one, and those of its question and gold answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastrl.data.cells import lookup
from fastrl.data.choices import gpqa_choices, super_gpqa_choices
from fastrl.data.golds import final_gold, listed_gold, worked_gold
from fastrl.data.program_rows import (
    any_text,
    apps,
    code_contests,
    human_eval,
    leet_code,
    live_code_bench,
    mbpp,
    mbpp_plus,
)
from fastrl.data.rows import Row
from fastrl.data.turns import asked, assistant_gold

Gold = Callable[[Any], str]
Made = Callable[[Row, int], dict[str, Any]]
"""Function that makes the columns which a layout adds to a row, from the row and a seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The columns of a data set and the functions that read them."""

    name: str
    question: str
    """Column of the question; a dot descends into a dict. May be a column that `make` adds."""
    solution: str
    """Column of the gold answer, likewise."""
    known_by: tuple[str, ...] = ()
    """Columns that must all be present for the layout to be recognised. Empty: used only by name."""
    without: tuple[str, ...] = ()
    """Columns that must be absent."""
    gold: Gold = final_gold
    """Read the gold answer's text from its cell."""
    make: Made | None = None


def _same_as_general(name: str, question: str, solution: str, gold: Gold = final_gold) -> Layout:
    """Return a layout that the general rule reads too; naming it checks that the file has its columns."""
    return Layout(name=name, question=question, solution=solution, gold=gold)


LAYOUTS: tuple[Layout, ...] = (
    # programs: the gold answer is a program if the file has one; tests get the form that rewards run
    Layout(name="humaneval", question="prompt", solution="canonical_solution", gold=any_text,
           known_by=("task_id", "prompt", "test", "entry_point"), without=("problem_description",),
           make=human_eval),
    Layout(name="leetcode", question="question", solution="completion", gold=any_text,
           known_by=("problem_description", "test", "entry_point"), make=leet_code),
    Layout(name="mbpp+", question="prompt", solution="code", gold=any_text,
           known_by=("task_id", "prompt", "code", "test", "test_list"), make=mbpp_plus),
    Layout(name="mbpp", question="question", solution="code", gold=any_text,
           known_by=("task_id", "code", "test_list"), without=("test",), make=mbpp),
    Layout(name="apps", question="question", solution="reference", gold=any_text,
           known_by=("question", "input_output", "solutions"), make=apps),
    Layout(name="livecodebench", question="question", solution="reference", gold=any_text,
           known_by=("question_content", "public_test_cases"), make=live_code_bench),
    Layout(name="codecontests", question="description", solution="reference", gold=any_text,
           known_by=("description", "public_tests"), make=code_contests),
    # multiple choice: options are shuffled, the gold answer is a letter
    Layout(name="gpqa", question="question", solution="letter",
           known_by=("Question", "Correct Answer", "Incorrect Answer 1"), make=gpqa_choices),
    Layout(name="supergpqa", question="asked", solution="letter",
           known_by=("question", "options", "answer"), make=super_gpqa_choices),
    # mathematics whose columns differ from the general rule
    Layout(name="olympiadbench", question="question", solution="final_answer", gold=listed_gold,
           known_by=("question", "final_answer")),
    Layout(name="scibench", question="problem_text", solution="answer_number",
           known_by=("problem_text", "answer_number")),
    Layout(name="math", question="problem", solution="solution", gold=worked_gold,
           known_by=("problem", "solution", "level", "type"), without=("answer",)),
    Layout(name="messages", question="asked", solution="gold",
           known_by=("messages",), without=("prompt", "question", "problem"),
           make=lambda row, _: {"asked": asked(row["messages"]), "gold": assistant_gold(row)}),
    # read by the general rule too
    _same_as_general("gsm8k", "question", "answer"),
    _same_as_general("math500", "problem", "answer"),
    _same_as_general("dapo", "prompt", "reward_model.ground_truth"),
    _same_as_general("verl", "prompt", "reward_model.ground_truth"),
    _same_as_general("deepscaler", "problem", "answer"),
    _same_as_general("skywork", "prompt", "reward_model.ground_truth", listed_gold),
    _same_as_general("numinamath", "problem", "answer"),
    _same_as_general("openr1", "problem", "answer"),
    _same_as_general("bigmath", "problem", "answer"),
    _same_as_general("omnimath", "problem", "answer"),
)  # fmt: skip
NAMES = tuple(layout.name for layout in LAYOUTS)


def find_layout(rows: Sequence[Row]) -> Layout | None:
    """Return the first layout whose columns the rows have; None: use the general rule."""
    columns = {name for row in rows for name, value in row.items() if value is not None}
    return next((each for each in LAYOUTS if _knows(each, columns)), None)


def layout_called(name: str) -> Layout:
    """Return the layout with this name. Raises: ValueError: there is none."""
    found = next((layout for layout in LAYOUTS if layout.name == name), None)
    if found is None:
        raise ValueError(f"[data] layout: expected auto or one of {', '.join(NAMES)}, got {name!r}")
    return found


def _knows(layout: Layout, columns: set[str]) -> bool:
    wanted, refused = set(layout.known_by), set(layout.without)
    return bool(wanted) and wanted <= columns and not refused & columns


def missing_columns(layout: Layout, rows: Sequence[Row]) -> list[str]:
    """Return the columns that a layout chosen by name needs and no row has."""
    needed = layout.known_by or (layout.question, layout.solution)
    return [name for name in needed if all(lookup(row, name) is None for row in rows)]
