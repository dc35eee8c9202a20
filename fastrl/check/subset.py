"""Checks of a subset stage before a model is loaded: file, model, lengths, column names."""

from __future__ import annotations

import json

from fastrl.check.model import check_fits
from fastrl.check.rl import check_engine
from fastrl.config import SubsetConfig, refuse
from fastrl.data.problems import load_problems
from fastrl.stages.subset import COLUMNS


def check_subset(config: SubsetConfig) -> None:
    """Check a subset stage.

    Raises:
        ValueError, FileNotFoundError: one line, `[section] field: expected ..., got ...`.
    """
    check_engine("engine", config.engine)
    problems = load_problems(config.data)
    if config.sizes[-1] > len(problems):
        refuse("subset", "sizes", f"at most {len(problems)}, the problems of data.path", config.sizes)
    for problem in problems:
        taken = [name for name in COLUMNS if name in problem.columns]
        where = f"[data] {config.data.path} row {problem.index + 1}"
        if taken:
            raise ValueError(f"{where}: expected no column {', '.join(taken)}: the stage writes its own")
        try:
            json.dumps(problem.columns)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: expected values that JSON can hold, got {error}") from error
    check_fits(
        "model", config.model, problems, config.sampling.max_new_tokens, "sampling.max_new_tokens",
        config.engine.max_batch_tokens, data=config.data,
    )  # fmt: skip
