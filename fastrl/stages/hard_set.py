"""The hard_set stage: selects problems that a model rarely solves, with failed attempts and references."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastrl.config import HardSetConfig
from fastrl.data import Problem, load_problems
from fastrl.data.rows import Row
from fastrl.engine.build import build_engine, choose_device
from fastrl.evaluate.accuracy import ProblemResult
from fastrl.grading import AnswerGrader, Verdict
from fastrl.runtime.distributed import Ranks
from fastrl.runtime.run import Run
from fastrl.runtime.seeding import seed_of
from fastrl.training.progress import write_json, write_rows
from fastrl.training.solve_rates import Rollouts, sample_problems
from fastrl.types import Completion

REFERENCE_COLUMNS = ("reference", "reference_solution", "rationale", "solution", "answer")
FAILED = (Verdict.WRONG, Verdict.NO_ANSWER, Verdict.UNREADABLE)
"""Verdicts of failed attempts; an answer whose grading timed out may be correct."""


def run_hard_set(config: HardSetConfig, ranks: Ranks | None = None) -> Path:
    """Sample every problem with a reference solution, and keep those with at most max_correct correct samples
    out of num_samples.

    Writes to run.dir:
        hard.jsonl: one line per hard problem: its row, messages (the prompt), question, solution and gold
            (both the gold answer), reference, num_correct, num_samples, attempts (failed rollouts: sample,
            text, verdict, num_tokens).
        counts.json: counts of problems and samples.   budget.json: requests and tokens.

    Draws of sample j depend only on (seed, row, j). A folder of the same configuration resumes after its last
    complete chunk, with the same files, bit for bit on one device. The ranks take chunks in turn, each with
    its own engine.

    Returns: run.dir.
    Raises:
        FileNotFoundError, ValueError: a file, column or option is invalid; no problem is hard.
    """
    ranks = ranks or Ranks()
    run = Run.start(config, writes=ranks.first)
    problems = load_problems(config.data)
    sampled = with_references(problems, config)
    with AnswerGrader.of(config.answer) as grader:
        rollouts = sample_problems(
            [problem for problem, _ in sampled],
            config,
            grader,
            ranks,
            run=run,
            items=[[p.index, p.messages, p.solution, text, p.columns] for p, text in sampled],
            make_engine=lambda: build_engine(
                config.model, config.engine, choose_device(config.run), config.data
            ),
            keep=lambda result: {"attempts": attempts_of(result, config)},
        )
    rows = [
        hard_row(problem, reference, row, config)
        for (problem, reference), row in zip(sampled, rollouts.rows, strict=True)
        if row["num_correct"] <= config.max_correct
    ]
    if ranks.first:
        write_json(run.folder / "counts.json", hard_set_counts(len(problems), rollouts, rows))
        write_json(run.folder / "budget.json", rollouts.budget)
    if not rows:
        least = min(row["num_correct"] for row in rollouts.rows)
        raise ValueError(
            f"[hard_set] max_correct: expected a problem with at most {config.max_correct} correct samples "
            f"of {config.num_samples}, got none of {len(rollouts.rows)} (the fewest are {least}); raise "
            "max_correct, lower num_samples, or take harder problems"
        )
    if ranks.first:
        write_rows(run.folder / "hard.jsonl", rows)
    return run.folder


def with_references(problems: Sequence[Problem], config: HardSetConfig) -> list[tuple[Problem, str]]:
    """Return the problems that have a worked solution, each with the solution.

    Raises:
        ValueError: no row has a worked solution.
    """
    chosen = config.reference_column
    names = REFERENCE_COLUMNS if chosen is None else (chosen,)
    for name in names:
        found = [
            (problem, text) for problem in problems if (text := worked_solution(problem, name)) is not None
        ]
        if found:
            return found
    have = ", ".join(problems[0].columns)
    raise ValueError(
        f"[hard_set] reference_column: expected a column with worked solutions, named {' or '.join(names)}, "
        f"got columns {have} in {config.data.path}"
    )


def worked_solution(problem: Problem, column: str) -> str | None:
    """Return the text of a column; None if it is empty or only the gold answer."""
    value = problem.columns.get(column)
    if not isinstance(value, str) or value.strip() in ("", problem.solution):
        return None
    return value.strip()


def attempts_of(result: ProblemResult, config: HardSetConfig) -> list[Row]:
    """Return up to keep_attempts failed rollouts of a hard problem; none if the problem is not hard."""
    if result.num_correct > config.max_correct:
        return []
    seed = seed_of(config.run.seed, "attempts", result.problem.index)
    pairs = list(zip(result.completions, result.verdicts, strict=True))
    return failed_attempts(pairs, seed)[: config.keep_attempts]


def failed_attempts(graded: Sequence[tuple[Completion, Verdict]], seed: int) -> list[Row]:
    """Return distinct failed rollouts that were not truncated, in an order drawn from the seed."""
    found: dict[str, Row] = {}
    for sample, (completion, verdict) in enumerate(graded):
        text = completion.text
        if completion.finish_reason == "stop" and verdict in FAILED and text.strip():
            found.setdefault(
                text,
                {
                    "sample": sample,
                    "text": text,
                    "verdict": verdict.value,
                    "num_tokens": len(completion.token_ids),
                },
            )
    return sorted(found.values(), key=lambda row: seed_of(seed, row["sample"]))


def hard_row(problem: Problem, reference: str, sampled: Row, config: HardSetConfig) -> Row:
    """Return a row of hard.jsonl; these columns replace columns of the same name in the file."""
    return {
        **problem.columns,
        "messages": problem.messages,
        "question": problem.question,
        "solution": problem.solution,
        "reference": reference,
        "gold": problem.solution,
        "num_correct": sampled["num_correct"],
        "num_samples": config.num_samples,
        "attempts": sampled["attempts"],
    }


def hard_set_counts(num_problems: int, rollouts: Rollouts, hard: Sequence[Row]) -> dict[str, Any]:
    """Return the content of counts.json: counts of problems and samples."""
    solved = Counter(counted["num_correct"] for counted in rollouts.rows)
    return {
        "problems": num_problems,
        "with_reference": len(rollouts.rows),
        "hard": len(hard),
        "hard_with_attempts": sum(bool(row["attempts"]) for row in hard),
        "attempts": sum(len(row["attempts"]) for row in hard),
        **rollouts.counts(),
        "problems_by_num_correct": {str(number): solved[number] for number in sorted(solved)},
    }
