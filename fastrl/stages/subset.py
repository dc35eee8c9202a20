"""The subset stage: measures solve rates, writes nested subsets and copies with wrong labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fastrl.config import SubsetConfig
from fastrl.data import Problem, load_problems
from fastrl.data.rows import Row
from fastrl.engine.build import build_engine, choose_device
from fastrl.evaluate.accuracy import ProblemResult
from fastrl.grading import AnswerGrader, Verdict
from fastrl.methods.weak.labels import surely_differ
from fastrl.methods.weak.noise import Differ, most_frequent_wrong, noisy_labels, random_labels
from fastrl.methods.weak.subsets import difficulty_bins, stratified_order
from fastrl.runtime.distributed import Ranks
from fastrl.runtime.run import Run
from fastrl.training.progress import write_json, write_rows
from fastrl.training.solve_rates import Rollouts, sample_problems

COLUMNS = ("gold", "num_correct", "num_samples", "answers", "wrong_label", "label", "corrupted")
"""Columns that the stage adds to a row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SolvedPool:
    """All problems with their numbers of correct samples and their output rows."""

    problems: Sequence[Problem]
    num_correct: Sequence[int]
    rows: Sequence[Row]
    order: Sequence[int]
    """Indices of the problems that are sometimes solved, in round-robin order over difficulties."""


def run_subset(config: SubsetConfig, ranks: Ranks | None = None) -> Path:
    """Sample every problem num_samples times; write solve rates, one subset per size and one file per noise
    share.

    Writes to run.dir:
        solved.jsonl: one line per problem: its row, gold, num_correct, num_samples, answers (answer, count,
            verdict; most frequent first).
        subset-N.jsonl: the lines of N problems, with wrong_label if noise is configured.
        subset-N-noise-S.jsonl: the same with label (set data.solution_column to it for training) and
            corrupted.
        counts.json, budget.json: counts of problems and samples; requests and tokens.

    Draws of sample j depend only on (seed, row, j). A folder of the same configuration resumes after its last
    complete chunk, with the same files, bit for bit on one device. The ranks take chunks in turn, each with
    its own engine.

    Returns: run.dir.
    Raises:
        FileNotFoundError, ValueError: a file or option is invalid; fewer problems are sometimes solved than
            the largest size; too few wrong labels for the largest share.
    """
    ranks = ranks or Ranks()
    run = Run.start(config, writes=ranks.first)
    problems = load_problems(config.data)
    with AnswerGrader.of(config.answer) as grader:
        rollouts = sample_problems(
            problems,
            config,
            grader,
            ranks,
            run=run,
            items=[[each.index, each.messages, each.solution, each.columns] for each in problems],
            make_engine=lambda: build_engine(
                config.model, config.engine, choose_device(config.run), config.data
            ),
            keep=lambda result: {"answers": answers_of(result, grader)},
        )
        pool = make_pool(problems, rollouts.rows, config)
        if ranks.first:
            write_rows(run.folder / "solved.jsonl", pool.rows)
            write_json(run.folder / "budget.json", rollouts.budget)
            write_json(run.folder / "counts.json", subset_counts(pool, rollouts, config))
        check_sizes(pool, config)
        if ranks.first:
            differ = cached(partial(surely_differ, grader))
            wrong = {} if config.noise == "none" else choose_wrong_labels(pool, differ, config)
            for size in config.sizes:
                write_subset(run.folder, pool, size, wrong, differ, config)
    return run.folder


def answers_of(result: ProblemResult, grader: AnswerGrader) -> list[Row]:
    """Return a problem's answers with their counts and verdicts, the most frequent first."""
    by_verdict: dict[Verdict, list[str | None]] = {}
    for answer, verdict in zip(result.answers, result.verdicts, strict=True):
        by_verdict.setdefault(verdict, []).append(answer)
    answers = [
        {"answer": answer, "count": votes, "verdict": verdict.value}
        for verdict, given in by_verdict.items()
        for answer, votes in grader.votes(given).items()
    ]
    return sorted(answers, key=lambda answer: -int(answer["count"]))


def make_pool(problems: Sequence[Problem], sampled: Sequence[Row], config: SubsetConfig) -> SolvedPool:
    num_correct = [row["num_correct"] for row in sampled]
    rows = [
        {
            **problem.columns,
            "gold": problem.solution,
            "num_correct": row["num_correct"],
            "num_samples": config.num_samples,
            "answers": row["answers"],
        }
        for problem, row in zip(problems, sampled, strict=True)
    ]
    order = stratified_order(num_correct, config.num_samples, config.run.seed)
    return SolvedPool(problems=problems, num_correct=num_correct, rows=rows, order=order)


def check_sizes(pool: SolvedPool, config: SubsetConfig) -> None:
    if config.sizes[-1] > len(pool.order):
        raise ValueError(
            f"[subset] sizes: expected at most {len(pool.order)}, the problems with 1 to "
            f"{config.num_samples - 1} correct rollouts of {config.num_samples}, got {config.sizes[-1]}"
        )


def choose_wrong_labels(pool: SolvedPool, differ: Differ, config: SubsetConfig) -> dict[int, str | None]:
    """Return each problem's wrong label or None, the same in all subsets and for all shares."""
    places, seed = pool.order[: config.sizes[-1]], config.run.seed
    golds = [problem.solution for problem in pool.problems]
    if config.noise == "random":
        drawn = random_labels([golds[place] for place in places], golds, seed, places, differ)
        return dict(zip(places, drawn, strict=True))
    votes = {place: wrong_votes(pool.rows[place]) for place in places}
    pairs = [(answer, golds[place]) for place, given in votes.items() for answer in given]
    sure = {pair for pair, differs in zip(pairs, differ(pairs), strict=True) if differs}
    return {
        place: most_frequent_wrong(
            {answer: number for answer, number in given.items() if (answer, golds[place]) in sure},
            seed,
            place,
        )
        for place, given in votes.items()
    }


def wrong_votes(row: Row) -> dict[str, int]:
    """Return the votes for answers that the grader called wrong; an unreadable answer is no label."""
    return {
        answer["answer"]: answer["count"]
        for answer in row["answers"]
        if answer["verdict"] == Verdict.WRONG.value
    }


def cached(differ: Differ) -> Differ:
    """Return the function with a cache over pairs."""
    known: dict[tuple[str, str], bool] = {}

    def lookup(pairs: Sequence[tuple[str, str]]) -> list[bool]:
        fresh = list(dict.fromkeys(pair for pair in pairs if pair not in known))
        known.update(zip(fresh, differ(fresh), strict=True))
        return [known[pair] for pair in pairs]

    return lookup


def write_subset(
    folder: Path,
    pool: SolvedPool,
    size: int,
    wrong: dict[int, str | None],
    differ: Differ,
    config: SubsetConfig,
) -> None:
    """Write subset-N.jsonl and its noisy copies."""
    places = pool.order[:size]
    rows = [pool.rows[place] for place in places]
    if config.noise != "none":
        rows = [{**row, "wrong_label": wrong[place]} for row, place in zip(rows, places, strict=True)]
    write_rows(folder / f"subset-{size}.jsonl", rows)
    for share in config.shares:
        labels = noisy_labels(
            [pool.problems[place].solution for place in places], [wrong[place] for place in places], share,
            config.run.seed, places, differ,
        )  # fmt: skip
        noisy = [
            {**row, "label": label.label, "corrupted": label.corrupted}
            for row, label in zip(rows, labels, strict=True)
        ]
        write_rows(folder / f"subset-{size}-noise-{share}.jsonl", noisy)


def subset_counts(pool: SolvedPool, rollouts: Rollouts, config: SubsetConfig) -> dict[str, Any]:
    """Return the content of counts.json: problems by number of correct samples, in total and per subset;
    verdicts of all samples."""
    bins = difficulty_bins(pool.num_correct, config.num_samples)
    return {
        "problems": len(pool.problems),
        "never_solved": sum(number == 0 for number in pool.num_correct),
        "always_solved": sum(number == config.num_samples for number in pool.num_correct),
        "sometimes_solved": len(pool.order),
        **rollouts.counts(),
        "problems_by_num_correct": {str(number): len(bin_) for number, bin_ in enumerate(bins, 1)},
        "subsets_by_num_correct": {
            str(size): by_num_correct([pool.num_correct[place] for place in pool.order[:size]])
            for size in config.sizes
            if size <= len(pool.order)
        },
    }


def by_num_correct(numbers: Sequence[int]) -> dict[str, int]:
    found = Counter(numbers)
    return {str(number): found[number] for number in sorted(found)}
