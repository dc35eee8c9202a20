"""Sharing of an evaluation over ranks: each evaluates some problems, and all gather the results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

from fastrl.data import Problem
from fastrl.runtime.distributed import Ranks

R = TypeVar("R", bound=Any)
"""A dataclass with the fields `problem` and `completions`."""


def share(problems: Sequence[Problem], ranks: Ranks) -> list[Problem]:
    """Return this rank's problems; the ranks' numbers differ by at most one."""
    return [problems[index] for index in ranks.share([1] * len(problems))]


def together(results: Sequence[R], ranks: Ranks) -> list[R]:
    """Return the results of all ranks in order of the problems' rows.

    With several ranks log-probs are dropped: no metric uses them, and they are half of the data to send.
    """
    if ranks.size == 1:
        return list(results)
    light = [
        replace(result, completions=[replace(c, logprobs=[]) for c in result.completions])
        for result in results
    ]
    return sorted(ranks.gather(light), key=lambda result: int(result.problem.index))
