"""The intervene stage: turns failed attempts into one-step interventions to fine-tune on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from fastrl.config import InterveneConfig
from fastrl.data.rows import Row
from fastrl.engine.build import build_engine, choose_device
from fastrl.engine.protocol import Engine
from fastrl.grading import AnswerGrader
from fastrl.methods.interventions.candidates import (
    Arms,
    Candidate,
    apply_filter,
    candidates_of,
    keep_first,
    measure,
    select_one,
)
from fastrl.methods.interventions.continuations import Continuer, PlacedPrefix
from fastrl.methods.interventions.funnel import funnel
from fastrl.methods.interventions.page import page
from fastrl.methods.interventions.problems import HardProblem, hard_problem, read_hard_set
from fastrl.methods.interventions.propose import Check, Proposer
from fastrl.report.reporter import Reporter
from fastrl.runtime.distributed import Ranks
from fastrl.runtime.run import Run, write_atomic
from fastrl.training.progress import Budget, in_chunks, summed, write_json, write_rows
from fastrl.types import Metrics


def run_intervene(config: InterveneConfig, ranks: Ranks | None = None) -> Path:
    """Let the model rewrite the first wrong step of its failed attempts; keep rewrites that raise success.

        gain = p(prefix + intervention) - p(prefix + original step)

    Writes to run.dir:
        attempts.jsonl: the problems with their attempts in steps.
        interventions.jsonl: every candidate with location, content, success rates and outcome.
        sft.jsonl: one line per selected intervention: prompt, prefix, completion; without the wrong step and
            without an end token.
        funnel.json, page.html: counts and examples.   budget.json: requests and tokens by purpose.

    A folder of the same configuration resumes after its last complete chunk, with the same files, bit for bit
    on one device. The ranks take chunks in turn, each with its own engine.

    Returns: run.dir.
    Raises:
        FileNotFoundError, ValueError: a file, row or option is invalid; no intervention is selected.
    """
    ranks = ranks or Ranks()
    run = Run.start(config, writes=ranks.first)
    rows = read_hard_set(config.data)
    reporter = Reporter(run, config, unit="problem")
    with reporter, AnswerGrader.of(config.answer) as grader:

        @cache
        def worker() -> Worker:
            """Load the model at the first chunk that is not done yet."""
            engine = reporter.watch(
                build_engine(config.model, config.engine, choose_device(config.run), config.data)
            )
            return Worker(engine, grader, config, min(engine.max_model_len, config.engine.max_batch_tokens))

        done = in_chunks(
            run.folder / "progress.jsonl",
            rows,
            config.chunk_size,
            lambda start, chunk: worker().chunk(start, chunk),
            ranks,
            reporter=reporter,
            metrics=chunk_metrics,
        )
    problems = [hard_problem(index, row, config.steps) for index, row in enumerate(rows)]
    candidates = [Candidate(**row) for chunk in done for row in chunk["candidates"]]
    counts = funnel(
        num_problems=sum(bool(problem.attempts) for problem in problems),
        num_attempts=sum(len(problem.attempts) for problem in problems),
        too_long=sum(chunk["too_long"] for chunk in done),
        cut=sum(chunk["cut"] for chunk in done),
        candidates=candidates,
        kept_by=config.filter,
    )
    budget = summed([chunk["budget"] for chunk in done])
    sft_rows = [
        sft_row(problems[candidate.problem], candidate)
        for candidate in candidates
        if candidate.outcome == "selected"
    ]
    if ranks.first:
        write_rows(run.folder / "attempts.jsonl", (problem.row() for problem in problems))
        write_rows(run.folder / "interventions.jsonl", (candidate.row() for candidate in candidates))
        write_rows(run.folder / "sft.jsonl", sft_rows)
        write_json(run.folder / "funnel.json", counts)
        write_json(run.folder / "budget.json", budget)
        write_atomic(run.folder / "page.html", page(problems, candidates, counts, budget))
    if not sft_rows:
        raise ValueError(
            f"[intervene] filter: expected at least one intervention that passes {config.filter}, got none "
            f"of {len(candidates)} proposals ({counts['outcomes']}); take another form, more proposals "
            "or continuations, or a weaker filter"
        )
    return run.folder


class Worker:
    """Proposes, measures and selects interventions for chunks of problems."""

    def __init__(self, engine: Engine, grader: AnswerGrader, config: InterveneConfig, room: int) -> None:
        self.config = config
        self.proposer = Proposer(engine, config, room)
        self.continuer = Continuer(engine, grader, config, room)

    def chunk(self, start: int, rows: Sequence[Row]) -> dict[str, Any]:
        """Return the candidates of the rows' attempts with outcomes, counts, and the budget spent."""
        budget: Budget = {}
        problems = [hard_problem(start + i, row, self.config.steps) for i, row in enumerate(rows)]
        checks = self.proposer.check(problems, budget)
        read = [candidates_of(check, self.config.leak) for check in checks]
        if self.config.select == "first":
            for own in read:
                keep_first(own)
        places = [check.problem.index - start for check in checks]
        open_ones = [
            (place, check, candidate)
            for place, check, own in zip(places, checks, read, strict=True)
            for candidate in own
            if candidate.outcome == "open"
        ]
        self._measure(problems, open_ones, budget)
        for own in read:
            for candidate in own:
                apply_filter(candidate, self.config)
            select_one(own, self.config)
        return {
            "candidates": [asdict(candidate) for own in read for candidate in own],
            "too_long": sum(check.completions is None for check in checks),
            "cut": sum(check.solution_was_cut for check in checks),
            "budget": budget,
        }

    def _measure(
        self, problems: list[HardProblem], open_ones: Sequence[tuple[int, Check, Candidate]], budget: Budget
    ) -> None:
        arms = [Arms.of(check.steps, candidate) for _, check, candidate in open_ones]
        prefixes: list[PlacedPrefix] = [
            (place, text)
            for (place, _, _), own in zip(open_ones, arms, strict=True)
            for text in own.needed(self.config)
        ]
        if prefixes:
            rates = self.continuer.success_rates(problems, prefixes, budget)
            for (place, _, candidate), own in zip(open_ones, arms, strict=True):
                measure(candidate, own, place, rates)


def chunk_metrics(found: Row) -> Metrics:
    """Return the numbers of proposed and selected interventions, and of sampled tokens."""
    outcomes = [candidate["outcome"] for candidate in found["candidates"]]
    return {
        "candidates": float(len(outcomes)),
        "selected": float(outcomes.count("selected")),
        "num_tokens": float(sum(spent["sampled_tokens"] for spent in found["budget"].values())),
    }


def sft_row(problem: HardProblem, candidate: Candidate) -> Row:
    """Return a row of sft.jsonl: the assistant's turn is prefix + completion, without an end token."""
    assert candidate.location is not None, "a selected candidate has a location"
    return {
        "prompt": problem.messages,
        "prefix": problem.attempts[candidate.attempt].before(candidate.location),
        "completion": candidate.content,
        "end": False,
        "question": problem.question,
        "solution": problem.solution,
        "problem": candidate.problem,
        "attempt": candidate.attempt,
        "location": candidate.location,
        "success": candidate.success,
        "gain": candidate.gain,
    }
