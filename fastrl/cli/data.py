"""fastrl data FILE [--field value ...]: show how a file of problems is read: columns, counts, answers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from fastrl.cli.arguments import asks_help, take_positional
from fastrl.config import DataConfig
from fastrl.config.flags import parse_flags
from fastrl.data.problems import Problem, ProblemFile, read_problems

ROWS_SHOWN, CHARACTERS_SHOWN, BAD_SHOWN = 3, 300, 5
FORMS = (
    ("whole number", r"[-+]?\d+"),
    ("decimal number", r"[-+]?\d*\.\d+"),
    ("fraction", r"[-+]?(\d+/\d+|\\[dt]?frac.*)"),
    ("letter of an option", r"\(?[A-Z]\)?"),
    ("LaTeX", r".*[\\^_].*"),
    ("list or interval", r"[(\[{].*[)\]}]|[^\n]*,[^\n]*"),
    ("text of several lines", r".*\n.*"),
)
"""Forms of gold answers; the first pattern that matches the whole answer counts."""


def main(arguments: list[str]) -> int:
    """Print the summary with bad rows; return 1 if there are bad rows."""
    usage = "fastrl data FILE"
    path = "" if asks_help(arguments[:1]) else take_positional(arguments, "data", "FILE")
    base = DataConfig(path=path, on_bad_row="skip")
    config = parse_flags(
        DataConfig, base, arguments, prog=usage, hidden=("path", "chat_template", "chat_template_kwargs")
    )
    read = read_problems(replace(config, path=path))
    print(describe(path, read))
    return 1 if read.bad_rows else 0


def describe(path: str, read: ProblemFile) -> str:
    """Return the summary: columns, counts, forms of gold answers, the longest prompt, three rows."""
    problems, layout = read.problems, read.layout
    longest = max(problems, key=characters)
    columns = dict.fromkeys(name for problem in problems for name in problem.columns)
    lines = [
        f"{path}: {len(problems)} problems, {len(read.bad_rows)} bad rows",
        f"layout: {layout.name}; question from {layout.question!r}, gold answer from {layout.solution!r}",
        f"columns: {', '.join(columns)}",
        f"different questions: {len({problem.question for problem in problems})}",
        f"gold answers: {', '.join(f'{form} {count}' for form, count in gold_forms(problems))}",
        f"longest prompt: row {longest.index + 1}, {characters(longest)} characters",
        *(f"bad: {reason}" for reason in read.bad_rows[:BAD_SHOWN]),
    ]
    for problem in problems[:ROWS_SHOWN]:
        lines += ["", f"row {problem.index + 1}"]
        lines += [f"  {turn['role']}: {shown(turn['content'])}" for turn in problem.messages]
        lines.append(f"  gold answer: {shown(problem.solution)}")
    return "\n".join(lines)


def gold_forms(problems: Sequence[Problem]) -> list[tuple[str, int]]:
    """Count the gold answers of each form, most frequent first."""
    return Counter(form_of(problem.solution) for problem in problems).most_common()


def form_of(gold: str) -> str:
    """Return the form of one gold answer."""
    if not gold:
        return "none (tests judge)"
    found = (form for form, pattern in FORMS if re.fullmatch(pattern, gold, re.DOTALL))
    return next(found, "text")


def characters(problem: Problem) -> int:
    """Count the characters of all turns."""
    return sum(len(turn["content"]) for turn in problem.messages)


def shown(text: str) -> str:
    """Return the beginning of a text as one line."""
    line = text.replace("\n", "\\n")
    return line if len(line) <= CHARACTERS_SHOWN else f"{line[:CHARACTERS_SHOWN]}..."
