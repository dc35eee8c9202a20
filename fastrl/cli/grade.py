"""fastrl grade GOLD ANSWER [--explain] or FILE: grade one answer, or the completions of a file."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from fastrl.cli.arguments import take_flag
from fastrl.config import AnswerConfig, refuse
from fastrl.config.flags import parse_flags
from fastrl.data.problems import gold_text
from fastrl.data.rows import Row, read_rows
from fastrl.grading import AnswerGrader, Explanation, Verdict, answer_start

PROG = "fastrl grade GOLD ANSWER [--explain] | FILE"


@dataclass(frozen=True, slots=True, kw_only=True)
class GradeOptions:
    """Grade an answer against the gold answer, and explain the verdict."""

    answer: AnswerConfig = field(default_factory=AnswerConfig)
    completion_column: str = "completion"
    """Column of FILE with the texts to grade."""
    solution_column: str = "solution"
    """Column of FILE with the gold answers."""
    out: str | None = None
    """JSONL file for FILE's rows with answer, verdict and rule. null: print only counts."""


def main(arguments: list[str]) -> int:
    """Grade one answer or a file; return 1 if a single answer is not correct, else 0."""
    words = take_words(arguments)
    explain = take_flag(arguments, "--explain")
    options = parse_flags(GradeOptions, None, arguments, prog=PROG)
    if len(words) == 2:
        gold, answer = words
        return grade_one(gold, answer, options, explain)
    if len(words) != 1:
        got = f"{len(words)} words"
        raise ValueError(f"[grade] arguments: expected GOLD ANSWER or FILE before any flag, got {got}")
    if explain:
        raise ValueError("[grade] explain: expected only with GOLD ANSWER; --out writes each row's rule")
    return grade_file(words[0], options)


def take_words(arguments: list[str]) -> list[str]:
    """Remove and return the arguments before the first flag; -5 is an answer, not a flag."""
    taken: list[str] = []
    while arguments and not arguments[0].startswith("--") and arguments[0] != "-h":
        taken.append(arguments.pop(0))
    return taken


def grade_one(gold: str, answer: str, options: GradeOptions, explain: bool) -> int:
    """Print the verdict on an answer or completion; with `explain`, also how it was reached."""
    bare = answer_start(answer) is None and options.answer.extraction != "whole_response"
    with AnswerGrader.of(options.answer) as grader:
        found = grader.explain(grader.stating(answer) if bare else answer, gold)
    if explain:
        print(f"extraction   {'as given' if bare else found.extraction}: {found.answer}")
        print(f"normal form  {found.normal_answer}")
        print(f"gold         {found.normal_gold}")
        print(f"rule         {found.rule} ({options.answer.level})")
        print(f"verdict      {found.verdict.value}")
    else:
        print(found.verdict.value)
    return 0 if found.verdict is Verdict.CORRECT else 1


def grade_file(path: str, options: GradeOptions) -> int:
    """Grade every row of a file and print the counts of verdicts."""
    rows = read_rows(path, None)
    pairs = [pair_of(row, number, path, options) for number, row in enumerate(rows, start=1)]
    with AnswerGrader.of(options.answer) as grader:
        verdicts = grader.grade(pairs)
        if options.out is not None:
            found = [grader.explain(*pair) for pair in pairs]
            write(Path(options.out), rows, found)
    for verdict, number in Counter(verdicts).most_common():
        print(f"{verdict.value:12}{number:8}{number / len(rows):8.1%}")
    return 0


def pair_of(row: Row, number: int, path: str, options: GradeOptions) -> tuple[str, str]:
    """Return completion and gold answer of a row; raise ValueError with the row's number."""
    completion = row.get(options.completion_column)
    if not isinstance(completion, str):
        have = ", ".join(row)
        refuse("grade", "completion_column", f"text in row {number} of {path}, which has {have}", completion)
    try:
        return completion, gold_text(row.get(options.solution_column))
    except ValueError as error:
        raise ValueError(f"[grade] solution_column: {path} row {number}: {error}") from error


def write(path: Path, rows: list[Row], found: list[Explanation]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row, graded in zip(rows, found, strict=True):
            columns = {"answer": graded.answer, "verdict": graded.verdict.value, "rule": graded.rule}
            file.write(json.dumps({**row, **columns}, ensure_ascii=False, default=str) + "\n")
