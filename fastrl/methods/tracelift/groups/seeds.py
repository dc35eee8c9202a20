"""Seeds of groups: problems with a reference solution and the good trace made from it."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastrl.config import GroupsConfig
from fastrl.data.problems import Problem, load_problems, program_columns
from fastrl.grading.programs.cases import ProgramTests
from fastrl.methods.tracelift.groups.drafts import Draft, UnusableError, by_rule
from fastrl.methods.tracelift.groups.given import CANDIDATES, POSITIVE, read_draft
from fastrl.methods.tracelift.groups.rationale import strip_marks

REFERENCE_COLUMNS = ("reference_solution", "rationale", "solution", "answer", "program", "canonical_solution")
REASONING_COLUMNS = ("reasoning", "rationale", "output")
ID_COLUMNS = ("problem_id", "task_id", "id")

_THOUGHT_ENDS = re.compile(
    r"</think>|```|^[ \t]*(?:#+[ \t]*|\*\*)?explanation\b", re.IGNORECASE | re.MULTILINE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """A problem and its good trace; fields as in Group."""

    problem_id: str
    problem: str
    reference_solution: str
    answer: str
    tests: str | None
    columns: Mapping[str, Any]
    """Columns of the row that the group keeps."""
    row: Mapping[str, Any]
    """The whole row."""
    positive: Draft


def read_seeds(config: GroupsConfig) -> tuple[list[Seed], Counter[str]]:
    """Read the usable problems of a file, and count the others by cause.

    The good trace is the column `positive` if there is one. Else, for math, the reference solution without
    calculator marks and "#### answer", with 10 in every dimension; for code, the teacher's reasoning up to
    its program, judged later.

    Raises:
        FileNotFoundError, ValueError: a file or a column is missing.
    """
    problems = load_problems(replace(config.data, prompt_template=None, system_prompt=None))
    reference = choose_column(problems, config, "reference_column", REFERENCE_COLUMNS)
    reasoning = None
    if config.task == "code" and not any(POSITIVE in problem.columns for problem in problems):
        reasoning = choose_column(problems, config, "reasoning_column", REASONING_COLUMNS)
    seeds: dict[str, Seed] = {}
    dropped: Counter[str] = Counter()
    for problem in problems:
        try:
            seed = _seed(problem, config, reference, reasoning)
            if seed.problem_id in seeds:
                raise UnusableError("the same problem again")
            seeds[seed.problem_id] = seed
        except UnusableError as error:
            dropped[str(error)] += 1
    return list(seeds.values()), dropped


def choose_column(
    problems: Sequence[Problem], config: GroupsConfig, option: str, candidates: Sequence[str]
) -> str:
    """Return the configured column, or the first candidate that any row has."""
    chosen: str | None = getattr(config, option)
    names = candidates if chosen is None else (chosen,)
    for name in names:
        if any(problem.columns.get(name) is not None for problem in problems):
            return name
    raise ValueError(
        f"[groups] {option}: expected a column named {' or '.join(names)}, got "
        f"{', '.join(problems[0].columns)} in {config.data.path}"
    )


def _seed(problem: Problem, config: GroupsConfig, reference_column: str, reasoning: str | None) -> Seed:
    row = problem.columns
    reference = row.get(reference_column)
    if not isinstance(reference, str) or not reference.strip():
        raise UnusableError("no reference solution")
    math = config.task == "math"
    named = next((row[name] for name in ID_COLUMNS if isinstance(row.get(name), str | int)), None)
    digest = hashlib.blake2b(problem.question.encode(), digest_size=8).hexdigest()
    used = {reference_column, CANDIDATES, POSITIVE, *ID_COLUMNS}
    problem_id = digest if named is None else str(named)
    return Seed(
        problem_id=problem_id,
        problem=problem.question,
        reference_solution=reference,
        answer=problem.solution if math else reference,
        tests=None if math else _tests_text(problem),
        columns={key: row[key] for key in row if key not in used and row[key] != problem.question},
        row=row,
        positive=_positive(row, config, reference, reasoning, problem_id),
    )


def _positive(
    row: Mapping[str, Any], config: GroupsConfig, reference: str, reasoning: str | None, problem_id: str
) -> Draft:
    given = row.get(POSITIVE)
    if given is not None:
        draft = read_draft(given, config.task, f"problem {problem_id}, positive")
        good = by_rule("math", {})
        return replace(draft, judgment=good) if draft.judgment is None and config.task == "math" else draft
    if config.task == "math":
        return Draft(text=strip_marks(reference), judgment=by_rule("math", {}))
    taught = row.get(reasoning or "")
    text = clean_reasoning(taught if isinstance(taught, str) else "", reference)
    if len(text.split()) < config.least_words:
        raise UnusableError("the teacher's reasoning is too short")
    return Draft(text=text)


def _tests_text(problem: Problem) -> str | None:
    """Return the tests as the reward model's input; None if the row has none."""
    if not any(problem.columns.get(name) for name in ("tests", "test")):
        return None
    tests = ProgramTests.from_columns(program_columns(problem.columns, problem.question))
    return tests.as_text()


def clean_reasoning(text: str, program: str) -> str:
    """Cut a teacher's reasoning at </think>, its program, the first code fence or a heading "Explanation",
    whichever comes first."""
    text = text.replace("<think>", "", 1)
    ends = [match.start() for match in _THOUGHT_ENDS.finditer(text)]
    start = text.find(program.strip())
    return text[: min([*ends, *([start] if start >= 0 else [])], default=len(text))].strip()
