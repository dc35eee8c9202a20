"""Solve rates: sample every problem in resumable chunks and grade the answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from fastrl.config import HardSetConfig, SubsetConfig
from fastrl.data import Problem, render_prompt
from fastrl.data.rows import Row
from fastrl.engine.protocol import Engine
from fastrl.evaluate.accuracy import ProblemResult, graded
from fastrl.grading import AnswerGrader, Verdict
from fastrl.report.reporter import Reporter
from fastrl.runtime.distributed import Ranks
from fastrl.runtime.run import Run
from fastrl.runtime.seeding import seed_of
from fastrl.training.progress import Budget, charged, in_chunks, summed
from fastrl.types import Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollouts:
    """Graded rollouts of all problems, and their cost."""

    rows: list[Row]
    """One row per problem: num_correct, unfinished, verdicts, and the columns of `keep`."""
    budget: dict[str, dict[str, int]]
    """Requests and tokens by purpose."""

    def counts(self) -> dict[str, Any]:
        """Return the numbers of samples, of unfinished ones and of each verdict."""
        verdicts: Counter[str] = Counter()
        for row in self.rows:
            verdicts.update(row["verdicts"])
        return {
            "samples": verdicts.total(),
            "unfinished": sum(row["unfinished"] for row in self.rows),
            "verdicts": {verdict.value: verdicts[verdict.value] for verdict in Verdict},
        }


def sample_problems(
    problems: Sequence[Problem],
    config: HardSetConfig | SubsetConfig,
    grader: AnswerGrader,
    ranks: Ranks,
    *,
    run: Run,
    items: Sequence[Any],
    make_engine: Callable[[], Engine],
    keep: Callable[[ProblemResult], Row],
) -> Rollouts:
    """Sample every problem num_samples times and grade the answers, chunk by chunk.

    The seed of sample j depends only on (seed, stage, row of the problem, j). Chunks on disk are not sampled
    again. Ranks take chunks in turn, each with its own engine.

    Args:
        run: its folder gets progress.jsonl, one line per chunk, and metrics.jsonl.
        items: JSON-serialisable, one per problem: everything that its result depends on.
        make_engine: called at the first chunk that is not on disk.
        keep: returns further columns of a problem's row.
    Raises:
        ValueError: progress.jsonl holds results of other items.
    """
    with Reporter(run, config, unit="problem") as reporter:
        engine = cache(lambda: reporter.watch(make_engine()))
        done = in_chunks(
            run.folder / "progress.jsonl",
            items,
            config.chunk_size,
            lambda start, chunk: _sample(
                problems[start : start + len(chunk)], config, engine(), grader, keep
            ),
            ranks,
            reporter=reporter,
            metrics=lambda found: chunk_metrics(found, config.num_samples),
        )
    return Rollouts(
        rows=[row for chunk in done for row in chunk["problems"]],
        budget=summed([chunk["budget"] for chunk in done]),
    )


def chunk_metrics(found: Row, num_samples: int) -> Metrics:
    """Return a chunk's accuracy, shares of solved problems and unfinished samples, and sampled tokens."""
    rows, budget = found["problems"], found["budget"]["rollouts"]
    samples = num_samples * len(rows)
    return {
        "accuracy": sum(row["num_correct"] for row in rows) / samples,
        "solved": sum(row["num_correct"] > 0 for row in rows) / len(rows),
        "unfinished": sum(row["unfinished"] for row in rows) / samples,
        "num_tokens": float(budget["sampled_tokens"]),
    }


def _sample(
    problems: Sequence[Problem],
    config: HardSetConfig | SubsetConfig,
    engine: Engine,
    grader: AnswerGrader,
    keep: Callable[[ProblemResult], Row],
) -> dict[str, Any]:
    budget: Budget = {}
    with charged(engine, budget, "rollouts"):
        completions = engine.generate(
            [render_prompt(engine.tokenizer, problem.messages) for problem in problems],
            config.sampling.params,
            seeds=[seed_of(config.run.seed, config.stage, problem.index) for problem in problems],
            n=config.num_samples,
        )
    rows = [
        {
            "num_correct": result.num_correct,
            "unfinished": sum(c.finish_reason != "stop" for c in result.completions),
            "verdicts": Counter(verdict.value for verdict in result.verdicts),
            **keep(result),
        }
        for result in graded(problems, completions, grader)
    ]
    return {"problems": rows, "budget": budget}
