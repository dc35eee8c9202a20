"""Transferability: a frozen receiver's success on the policy's completions over a grid of cuts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from fastrl.config import TransferConfig
from fastrl.data import Problem
from fastrl.engine.protocol import Engine
from fastrl.evaluate.metrics import bootstrap_interval
from fastrl.grading import AnswerGrader
from fastrl.rewards.batch import mean
from fastrl.rewards.cuts import Cut
from fastrl.rewards.receiver import Continuation, Receiver
from fastrl.runtime.seeding import seed_of
from fastrl.types import Completion

TAUS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferResult:
    """Transferability to one receiver."""

    taus: tuple[float, ...]
    success: list[float]
    """Fraction of continuations that reach the gold answer, per tau; every problem has the same weight."""
    per_problem: list[list[float]]
    """[problem][tau]."""
    auc: float
    """Mean height of the success curve between the first and the last tau."""
    low: float
    high: float
    """95 % interval of auc over problems."""
    with_answer: list[float]
    """Fraction of prefixes that already contain an answer marker, per tau."""
    unfinished: float
    """Fraction of truncated continuations; they count as wrong."""


def transferability(
    receiver: Engine,
    policy_tokenizer: Any,
    problems: Sequence[Problem],
    completions: Sequence[Sequence[Completion]],
    grader: AnswerGrader,
    *,
    max_new_tokens: int,
    seed: int,
    taus: Sequence[float] = TAUS,
    num_continuations: int = 4,
    strip_answer: bool = False,
    temperature: float = 0.7,
    top_p: float = 0.95,
    slack_tokens: int = 256,
) -> TransferResult:
    """Cut every completion at every tau, let the receiver continue, and grade prefix + continuation.

        s(tau) = mean over problems, completions, continuations of 1[answer(y[:floor(tau |y|)] z) == gold]
        auc    = integral of s over tau / (last tau - first tau), by trapezoids; s itself at a single tau

    Args:
        receiver: a frozen model, preferably one that the policy was not trained with.
        policy_tokenizer: tokenizer of the completions.
        completions: one list per problem, at least one completion in each.
        max_new_tokens: the policy's limit; a continuation gets the tokens that the cut leaves + slack_tokens.
        taus: increasing, in [0, 1]; at 0 the receiver solves the problem from the start.
        strip_answer: prefixes end before the first answer marker.
    """
    check_grid(problems, completions, taus)
    config = TransferConfig(
        num_cuts=len(taus), num_continuations=num_continuations, strip_answer=strip_answer,
        temperature=temperature, top_p=top_p, slack_tokens=slack_tokens,
    )  # fmt: skip
    reader = Receiver(receiver, policy_tokenizer, grader, config, max_new_tokens)
    rows = [(i, completion) for i, samples in enumerate(completions) for completion in samples]
    cuts = [reader.cutter.cut(completion.token_ids, taus) for _, completion in rows]
    continuations, _ = reader.continue_cuts(
        [problems[i].messages for i, _ in rows],
        cuts,
        [problems[i].solution for i, _ in rows],
        seed,
        "transfer",
        rollouts=[completion.token_ids for _, completion in rows],
    )
    return summarize_transfer([i for i, _ in rows], cuts, continuations, tuple(taus), seed)


def summarize_transfer(
    owners: Sequence[int],
    cuts: Sequence[Sequence[Cut]],
    continuations: Sequence[Sequence[Sequence[Continuation]]],
    taus: tuple[float, ...],
    seed: int,
) -> TransferResult:
    """Average continuations [completion][tau][sample] into the curve; owners[i] is completion i's problem."""
    shares = [[mean([float(one.correct) for one in samples]) for samples in row] for row in continuations]
    curves: list[list[list[float]]] = [[] for _ in range(max(owners) + 1)]
    for owner, curve in zip(owners, shares, strict=True):
        curves[owner].append(curve)
    per_problem = [[mean(at_tau) for at_tau in zip(*several, strict=True)] for several in curves]
    areas = [area_under(taus, curve) for curve in per_problem]
    low, high = bootstrap_interval(areas, seed=seed_of(seed, "interval"))
    written = [one for row in continuations for samples in row for one in samples]
    return TransferResult(
        taus=taus,
        success=[mean(at_tau) for at_tau in zip(*per_problem, strict=True)],
        per_problem=per_problem,
        auc=mean(areas),
        low=low,
        high=high,
        with_answer=[mean([float(cut.has_answer) for cut in at_tau]) for at_tau in zip(*cuts, strict=True)],
        unfinished=mean([float(one.verdict is None) for one in written]),
    )


def area_under(taus: Sequence[float], values: Sequence[float]) -> float:
    """Return the curve's mean height by the trapezoidal rule."""
    if len(taus) == 1:
        return values[0]
    points = list(zip(taus, values, strict=True))
    area = sum((b - a) * (u + v) / 2 for (a, u), (b, v) in pairwise(points))
    return area / (taus[-1] - taus[0])


def check_grid(
    problems: Sequence[Problem], completions: Sequence[Sequence[Completion]], taus: Sequence[float]
) -> None:
    if len(problems) != len(completions) or not problems:
        raise ValueError(
            f"[transferability] completions: expected one list for each of {len(problems)} problems, "
            f"and at least one, got {len(completions)}"
        )
    if not all(completions):
        raise ValueError(
            "[transferability] completions: expected at least one per problem, got an empty list"
        )
    if not taus or list(taus) != sorted(set(taus)) or not 0 <= taus[0] <= taus[-1] <= 1:
        raise ValueError(f"[transferability] taus: expected rising numbers in [0, 1], got {tuple(taus)}")
