"""An evaluation that ranks share: each measures some of the problems, and all know what came of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

from fastrl.data import Problem
from fastrl.runtime.distributed import Ranks

R = TypeVar("R", bound=Any)
"""A dataclass with `problem` and its `completions`."""


def share(problems: Sequence[Problem], ranks: Ranks) -> list[Problem]:
    """This rank's problems: as many as another's, or one less."""
    return [problems[place] for place in ranks.share([1] * len(problems))]


def together(results: Sequence[R], ranks: Ranks) -> list[R]:
    """All ranks' results, by their problems' rows; of several ranks without log-probs, which no number of an
    evaluation is made of and which are half of what would be sent."""
    if ranks.size == 1:
        return list(results)
    light = [
        replace(result, completions=[replace(each, logprobs=[]) for each in result.completions])
        for result in results
    ]
    return sorted(ranks.gather(light), key=lambda result: int(result.problem.index))
