"""Which flawed traces stay: worse than the good one by all signs, none of them twice, enough in a group."""

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
"""Levels that one dimension at least loses against the good trace."""
ROUNDING = 1e-9
PLACEHOLDER = re.compile(
    r"\b(?:todo|tbd|lorem ipsum|placeholder|as an ai\b.*|mock[- ]\w+)\b|\[(?:insert|your)\b|^[\W_]*$",
    re.IGNORECASE,
)
PROGRAM = re.compile(r"```|^\s*(?:def |class |return\b|import |from \w+ import )", re.MULTILINE)


class Executor(Protocol):
    """What the last check needs of an executor."""

    def success_rates(
        self, questions: Sequence[str], traces: Sequence[str | None], references: Sequence[object],
        repeats: int, seed: int,
    ) -> list[float]: ...  # fmt: skip


@dataclass(slots=True)
class Pool:
    """A group in the making."""

    seed: Seed
    positive: Trace
    negatives: list[Trace]


@dataclass(slots=True)
class Filtered:
    """What one filter let pass and dropped, by kind."""

    name: str
    before: int
    dropped: Counter[str] = field(default_factory=Counter)


def filter_pools(pools: Sequence[Pool], config: GroupsConfig) -> list[Filtered]:
    """Every filter in its order; pools keep what passes all of them."""
    filters = [_filter(name, pools, keep) for name, keep in _checks(config)]
    return [*filters, _drop_duplicates(pools)]


def _checks(config: GroupsConfig) -> list[tuple[str, Callable[[Trace, Trace], bool]]]:
    """Names, and whether a trace passes beside the good one."""
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
    """At least one dimension is LEAST_DROP levels below the good trace's."""
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
    """Of equal texts the first stays; one that equals the good trace goes too."""
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
    """Drops negatives with which the executor succeeds more often than with the good trace.

        kept: success(negative) <= success(positive), both over `repeats` answers

    Args:
        references: of each pool's problem, what the executor's answers are checked against.
        answers: has the rates of problems that were measured before, and receives the others, batch by batch.
            Its ranks share the problems.
    """
    todo = [
        pair
        for pair in zip(pools, references, strict=True)
        if (pair[0].seed.problem_id, 0) not in answers.texts
    ]
    mine = answers.share(todo)
    for start in range(0, len(mine), BATCH):
        with answers.asking():
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
    """The rates of each pool's good trace and of its negatives, as JSON; all asked in one call."""
    asked = [
        (pool.seed.problem, trace.text, reference)
        for pool, reference in batch
        for trace in (pool.positive, *pool.negatives)
    ]
    questions, traces, references = zip(*asked, strict=True)
    rates = iter(executor.success_rates(questions, traces, references, repeats, seed))
    return {
        (pool.seed.problem_id, 0): json.dumps([next(rates) for _ in range(1 + len(pool.negatives))])
        for pool, _ in batch
    }


def _count_lost(out: Filtered, before: Sequence[Trace], kept: Sequence[Trace]) -> None:
    out.dropped += Counter(trace.negative_kind or "none" for trace in before) - Counter(
        trace.negative_kind or "none" for trace in kept
    )
