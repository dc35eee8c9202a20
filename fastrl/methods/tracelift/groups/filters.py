"""Filters of flawed traces: worse than the good trace by scores and executor, and no duplicates."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from fastrl.config import GroupsConfig
from fastrl.methods.tracelift.groups.asking import BATCH, AnswerFile, Call
from fastrl.methods.tracelift.groups.seeds import Seed
from fastrl.methods.tracelift.rubric_dimensions import level_of
from fastrl.methods.tracelift.trace_groups import Trace

LEAST_DROP = 2
"""A flawed trace must be this many levels below the good one in some dimension."""
ROUNDING = 1e-9
PLACEHOLDER = re.compile(
    r"\b(?:todo|tbd|lorem ipsum|placeholder|as an ai\b.*|mock[- ]\w+)\b|\[(?:insert|your)\b|^[\W_]*$",
    re.IGNORECASE,
)
PROGRAM = re.compile(r"```|^\s*(?:def |class |return\b|import |from \w+ import )", re.MULTILINE)


class Executor(Protocol):
    """The interface that `filter_by_executor` needs."""

    def success_rates(
        self, questions: Sequence[str], traces: Sequence[str | None], references: Sequence[object],
        repeats: int, seed: int,
    ) -> list[float]: ...  # fmt: skip


@dataclass(slots=True)
class Pool:
    """One problem's good trace and the flawed traces that passed so far."""

    seed: Seed
    positive: Trace
    negatives: list[Trace]


@dataclass(slots=True)
class Filtered:
    """Counts of one filter."""

    name: str
    before: int
    """Traces that entered the filter."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Counts by negative_kind."""


def filter_pools(pools: Sequence[Pool], config: GroupsConfig) -> list[Filtered]:
    """Apply every filter to the pools in place; return the counts in order."""
    filters = [_filter(name, pools, keep) for name, keep in _checks(config)]
    return [*filters, _drop_duplicates(pools)]


def _checks(config: GroupsConfig) -> list[tuple[str, Callable[[Trace, Trace], bool]]]:
    """Return each filter's name and its test keep(trace, good trace)."""
    checks: list[tuple[str, Callable[[Trace, Trace], bool]]] = [
        ("placeholder or too short", lambda trace, _: is_whole(trace.text, config.least_words)),
        ("not weak or bad", lambda trace, _: trace.label in ("weak", "bad")),
        (
            "within the margin of the positive",
            lambda trace, positive: trace.total <= positive.total - config.margin + ROUNDING,
        ),
        (f"no dimension {LEAST_DROP} levels lower", drops),
    ]
    if config.drop_code:
        checks.insert(1, ("holds code", lambda trace, _: PROGRAM.search(trace.text) is None))
    return checks


def is_whole(text: str, least_words: int) -> bool:
    return len(text.split()) >= least_words and PLACEHOLDER.search(text) is None


def drops(trace: Trace, positive: Trace) -> bool:
    """Return True if some dimension is at least LEAST_DROP levels below the good trace's."""
    return any(
        level_of(positive.scores[name]) - level_of(score) >= LEAST_DROP
        for name, score in trace.scores.items()
    )


def _filter(name: str, pools: Sequence[Pool], keep: Callable[[Trace, Trace], bool]) -> Filtered:
    out = Filtered(name, sum(len(pool.negatives) for pool in pools))
    for pool in pools:
        kept = [trace for trace in pool.negatives if keep(trace, pool.positive)]
        _count_lost(out, pool.negatives, kept)
        pool.negatives = kept
    return out


def _drop_duplicates(pools: Sequence[Pool]) -> Filtered:
    """Drop repeated texts and copies of the good trace."""
    out = Filtered("duplicates", sum(len(pool.negatives) for pool in pools))
    for pool in pools:
        seen = {normalised(pool.positive.text)}
        kept = []
        for trace in pool.negatives:
            if normalised(trace.text) not in seen:
                seen.add(normalised(trace.text))
                kept.append(trace)
        _count_lost(out, pool.negatives, kept)
        pool.negatives = kept
    return out


def normalised(text: str) -> str:
    return " ".join(text.casefold().split())


def filter_by_executor(
    pools: Sequence[Pool],
    references: Sequence[object],
    executor: Executor,
    repeats: int,
    seed: int,
    answers: AnswerFile,
) -> Filtered:
    """Drop negatives with which the executor succeeds more often than with the good trace.

        kept: success(negative) <= success(positive), both over `repeats` answers

    Args:
        references: each problem's reference; see Verifier.reference.
        answers: file of success rates by problem; only missing ones are measured, shared over its ranks.
    """
    todo = [
        pair
        for pair in zip(pools, references, strict=True)
        if (pair[0].seed.problem_id, 0) not in answers.texts
    ]
    mine = answers.share(todo)
    for start in range(0, len(mine), BATCH):
        with answers.timed():
            rates = _success_rates(mine[start : start + BATCH], executor, repeats, seed)
        answers.add(rates)
    answers.gather()
    out = Filtered("helps the executor more than the positive", sum(len(pool.negatives) for pool in pools))
    for pool in pools:
        best, *rates = json.loads(answers.texts[pool.seed.problem_id, 0])
        kept = [trace for trace, rate in zip(pool.negatives, rates, strict=True) if rate <= best]
        _count_lost(out, pool.negatives, kept)
        pool.negatives = kept
    return out


def _success_rates(
    batch: Sequence[tuple[Pool, object]], executor: Executor, repeats: int, seed: int
) -> dict[Call, str]:
    """Measure each pool's rates in one call: JSON lists, the good trace's first, then the negatives'."""
    rows = [
        (pool.seed.problem, trace.text, reference)
        for pool, reference in batch
        for trace in (pool.positive, *pool.negatives)
    ]
    questions, traces, references = zip(*rows, strict=True)
    rates = iter(executor.success_rates(questions, traces, references, repeats, seed))
    return {
        (pool.seed.problem_id, 0): json.dumps([next(rates) for _ in range(1 + len(pool.negatives))])
        for pool, _ in batch
    }


def _count_lost(out: Filtered, before: Sequence[Trace], kept: Sequence[Trace]) -> None:
    out.dropped += Counter(trace.negative_kind or "none" for trace in before) - Counter(
        trace.negative_kind or "none" for trace in kept
    )
