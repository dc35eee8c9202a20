"""The hard set: problems that a model hardly ever solves, its failed attempts and a reference solution."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from fastrl.config import HardSetConfig
from fastrl.data import Problem, load_problems, render_prompt
from fastrl.data.rows import Row
from fastrl.engine.build import build_engine, choose_device
from fastrl.engine.protocol import Engine
from fastrl.grading import AnswerGrader, Verdict
from fastrl.runtime.distributed import Ranks
from fastrl.runtime.run import Run
from fastrl.runtime.seeding import seed_of
from fastrl.training.progress import Budget, charged, in_chunks, summed, write_json, write_rows
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
    grading = config.grading

    @cache
    def engine() -> Engine:
        """Of the first chunk that is not done yet."""
        return build_engine(config.model, config.engine, choose_device(config.run))

    with AnswerGrader(grading.answer_workers, grading.answer_timeout_s) as grader:
        done = in_chunks(
            run.folder / "progress.jsonl",
            [[p.index, p.messages, p.solution, text, p.columns] for p, text in posed],
            config.chunk_size,
            lambda start, chunk: sample_chunk(
                [problem for problem, _ in posed[start : start + len(chunk)]], engine(), grader, config
            ),
            ranks,
        )
    sampled = [each for chunk in done for each in chunk["problems"]]
    rows = [
        hard_row(problem, reference, each, config)
        for (problem, reference), each in zip(posed, sampled, strict=True)
        if each["num_correct"] <= config.max_correct
    ]
    if ranks.first:
        write_json(run.folder / "counts.json", count(len(problems), sampled, rows))
        write_json(run.folder / "budget.json", summed([chunk["budget"] for chunk in done]))
    if not rows:
        least = min(each["num_correct"] for each in sampled)
        raise ValueError(
            "[hard_set] max_correct: expected at least one problem that is right at most "
            f"{config.max_correct} times in {config.num_samples}, got none of {len(sampled)} (the least is "
            f"{least}); raise max_correct, lower num_samples, or take harder problems"
        )
    if ranks.first:
        write_rows(run.folder / "hard.jsonl", rows)
    return run.folder


def with_references(problems: Sequence[Problem], config: HardSetConfig) -> list[tuple[Problem, str]]:
    """The problems that have a worked solution, with it.

    Raises:
        ValueError: no row has one.
    """
    chosen = config.reference_column
    names = REFERENCE_COLUMNS if chosen is None else (chosen,)
    for name in names:
        found = [(problem, text) for problem in problems if (text := worked(problem, name)) is not None]
        if found:
            return found
    have = ", ".join(problems[0].columns)
    raise ValueError(
        f"[hard_set] reference_column: expected a column with worked solutions, named {' or '.join(names)}, "
        f"got columns {have} in {config.data.path}"
    )


def worked(problem: Problem, column: str) -> str | None:
    """The text of a column where it says more than the gold answer."""
    value = problem.columns.get(column)
    if not isinstance(value, str) or value.strip() in ("", problem.solution):
        return None
    return value.strip()


def sample_chunk(
    problems: Sequence[Problem], engine: Engine, grader: AnswerGrader, config: HardSetConfig
) -> dict[str, Any]:
    """What became of the rollouts of some problems: counts, and the failed ones that are kept."""
    budget: Budget = {}
    with charged(engine, budget, "rollouts"):
        completions = engine.generate(
            [render_prompt(engine.tokenizer, problem.messages) for problem in problems],
            config.sampling.params,
            seeds=[seed_of(config.run.seed, "hard_set", problem.index) for problem in problems],
            n=config.num_samples,
        )
    pairs = [(each.text, p.solution) for p, own in zip(problems, completions, strict=True) for each in own]
    verdicts = iter(grader.grade(pairs))
    rows = []
    for problem, own in zip(problems, completions, strict=True):
        graded = [(each, next(verdicts)) for each in own]
        num_correct = sum(verdict is Verdict.CORRECT for _, verdict in graded)
        hard = num_correct <= config.max_correct
        failed = failed_attempts(graded, seed_of(config.run.seed, "attempts", problem.index)) if hard else []
        rows.append(
            {
                "num_correct": num_correct,
                "unfinished": sum(each.finish_reason != "stop" for each in own),
                "verdicts": Counter(verdict.value for _, verdict in graded),
                "attempts": failed[: config.keep_attempts],
            }
        )
    return {"problems": rows, "budget": budget}


def failed_attempts(graded: Sequence[tuple[Completion, Verdict]], seed: int) -> list[Row]:
    """Rollouts that ended by themselves and failed, equal ones once, in an order drawn by the seed."""
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
    """A line of hard.jsonl; columns of the file that have these names are replaced."""
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


def count(num_problems: int, sampled: Sequence[Row], hard: Sequence[Row]) -> dict[str, Any]:
    """From all problems to attempts, and the verdicts of all samples."""
    verdicts: Counter[str] = Counter()
    for each in sampled:
        verdicts.update(each["verdicts"])
    solved = Counter(each["num_correct"] for each in sampled)
    return {
        "problems": num_problems,
        "with_reference": len(sampled),
        "hard": len(hard),
        "hard_with_attempts": sum(bool(row["attempts"]) for row in hard),
        "attempts": sum(len(row["attempts"]) for row in hard),
        "samples": verdicts.total(),
        "unfinished": sum(each["unfinished"] for each in sampled),
        "verdicts": {verdict.value: verdicts[verdict.value] for verdict in Verdict},
        "problems_by_num_correct": {str(number): solved[number] for number in sorted(solved)},
    }
