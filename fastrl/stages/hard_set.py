"""The hard set: problems that a model hardly ever solves, its failed attempts and a reference solution."""

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
"""Of a grading that came to an end; one that timed out may have been right."""


def run_hard_set(config: HardSetConfig, ranks: Ranks | None = None) -> Path:
    """Sample every problem that has a reference solution, and keep those that are right at most max_correct
    times in num_samples.

    run.dir then holds hard.jsonl, a line a hard problem: its row, and messages (what the model read),
    question, solution (the gold answer), reference, num_correct, num_samples, attempts (failed rollouts:
    sample, text, verdict, num_tokens); counts.json, what became of all problems and samples; budget.json,
    requests and tokens. Sample j of a problem draws from (seed, its row, j) alone. A folder of the same
    configuration goes on after its last whole chunk, and the files are the same, bit for bit on one device.
    Ranks take chunks in turn, each with an engine of its own.

    Returns: run.dir.
    Raises:
        FileNotFoundError, ValueError: a file, column or option that can't be used; no problem is hard.
    """
    ranks = ranks or Ranks()
    run = Run.start(config, writes=ranks.first)
    problems = load_problems(config.data)
    posed = with_references(problems, config)
    with AnswerGrader.of(config.answer) as grader:
        rollouts = sample_problems(
            [problem for problem, _ in posed],
            config,
            grader,
            ranks,
            run=run,
            items=[[p.index, p.messages, p.solution, text, p.columns] for p, text in posed],
            make_engine=lambda: build_engine(
                config.model, config.engine, choose_device(config.run), config.data
            ),
            keep=lambda result: {"attempts": attempts_of(result, config)},
        )
    rows = [
        hard_row(problem, reference, each, config)
        for (problem, reference), each in zip(posed, rollouts.rows, strict=True)
        if each["num_correct"] <= config.max_correct
    ]
    if ranks.first:
        write_json(run.folder / "counts.json", hard_set_counts(len(problems), rollouts, rows))
        write_json(run.folder / "budget.json", rollouts.budget)
    if not rows:
        least = min(each["num_correct"] for each in rollouts.rows)
        raise ValueError(
            "[hard_set] max_correct: expected at least one problem that is right at most "
            f"{config.max_correct} times in {config.num_samples}, got none of {len(rollouts.rows)} (the "
            f"least is {least}); raise max_correct, lower num_samples, or take harder problems"
        )
    if ranks.first:
        write_rows(run.folder / "hard.jsonl", rows)
    return run.folder


def with_references(problems: Sequence[Problem], config: HardSetConfig) -> list[tuple[Problem, str]]:
    """Return the problems that have a worked solution, with it.

    Raises:
        ValueError: no row has one.
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
    """Return the text of a column; None if it says no more than the gold answer."""
    value = problem.columns.get(column)
    if not isinstance(value, str) or value.strip() in ("", problem.solution):
        return None
    return value.strip()


def attempts_of(result: ProblemResult, config: HardSetConfig) -> list[Row]:
    """Return the failed rollouts of a hard problem that are kept; none of another problem."""
    if result.num_correct > config.max_correct:
        return []
    seed = seed_of(config.run.seed, "attempts", result.problem.index)
    pairs = list(zip(result.completions, result.verdicts, strict=True))
    return failed_attempts(pairs, seed)[: config.keep_attempts]


def failed_attempts(graded: Sequence[tuple[Completion, Verdict]], seed: int) -> list[Row]:
    """Return rollouts that ended by themselves and failed, equal ones once, in an order drawn by the seed."""
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
    """Return a line of hard.jsonl; columns of the file that have these names are replaced."""
    return {
        **problem.columns,
        "messages": problem.messages,
        "question": problem.question,
        "solution": problem.solution,
        "reference": reference,
        "num_correct": sampled["num_correct"],
        "num_samples": config.num_samples,
        "attempts": sampled["attempts"],
    }


def hard_set_counts(num_problems: int, rollouts: Rollouts, hard: Sequence[Row]) -> dict[str, Any]:
    """Return what became of all problems and samples: counts.json."""
    solved = Counter(each["num_correct"] for each in rollouts.rows)
    return {
        "problems": num_problems,
        "with_reference": len(rollouts.rows),
        "hard": len(hard),
        "hard_with_attempts": sum(bool(row["attempts"]) for row in hard),
        "attempts": sum(len(row["attempts"]) for row in hard),
        **rollouts.counts(),
        "problems_by_num_correct": {str(number): solved[number] for number in sorted(solved)},
    }
