"""Evaluates a generator of the tiny world: accuracy, transfer to receivers, notation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from fastrl.config import DataConfig
from fastrl.data import load_problems
from fastrl.engine.tree.engine import TorchEngine
from fastrl.evaluate.accuracy import EvalResult, evaluate
from fastrl.grading import AnswerGrader
from fastrl.methods.rltr.transferability import transferability
from fastrl.runtime.seeding import seed_of
from fastrl.tiny.world.make import World
from fastrl.tiny.world.measure import measure
from fastrl.types import SamplingParams

MAX_NEW_TOKENS = 64
RECEIVERS = ("receiver", "held_out_receiver")


def assess(
    checkpoint: Path,
    world: World,
    *,
    num_problems: int = 128,
    num_samples: int = 4,
    num_continuations: int = 1,
    stripped: bool = False,
    seed: int = 0,
) -> dict[str, float]:
    """Measure accuracy, majority vote, transfer to both receivers and notation on held-out problems.

        transfer/<receiver> = mean success over cuts at tau = 0.1, ..., 0.9 of one completion per problem
        transfer/<receiver>/stripped = the same with cuts at most at the answer's beginning, if `stripped`

    Returns: metrics by name; `name/low` and `name/high` bound a 95 % interval over problems.
    """
    problems = load_problems(DataConfig(path=str(world.test), limit=num_problems))
    engine = _engine(checkpoint)
    with AnswerGrader(num_workers=1, timeout_s=5.0) as grader:
        result = evaluate(
            engine,
            problems,
            grader,
            num_samples=num_samples,
            sampling=SamplingParams(max_new_tokens=MAX_NEW_TOKENS),
            seed=seed_of(seed, "assess"),
        )
        numbers = dict(result.metrics) | _notation(result)
        for name in RECEIVERS:
            receiver = _engine(getattr(world, name))
            for label, strip in (("", False), ("/stripped", True)) if stripped else (("", False),):
                found = transferability(
                    receiver,
                    engine.tokenizer,
                    problems,
                    [completions[:1] for completions in result.completions],
                    grader,
                    max_new_tokens=MAX_NEW_TOKENS,
                    seed=seed,
                    num_continuations=num_continuations,
                    strip_answer=strip,
                    slack_tokens=32,
                )
                key = f"transfer/{name}{label}"
                numbers |= {key: found.auc, f"{key}/low": found.low, f"{key}/high": found.high}
    return numbers


def _notation(result: EvalResult) -> dict[str, float]:
    rows = [(r.problem.columns["expression"], c.text) for r in result.problems for c in r.completions]
    expressions, texts = zip(*rows, strict=True)
    return measure(expressions, texts)


def _engine(checkpoint: Path) -> TorchEngine:
    return TorchEngine.from_pretrained(str(checkpoint), dtype=torch.float32, device=torch.device("cpu"))


def with_interval(numbers: dict[str, float], name: str) -> str:
    """Format a metric as 0.63 [0.58, 0.68], without brackets if it has no interval."""
    if f"{name}/low" not in numbers:
        return f"{numbers[name]:.2f}"
    return f"{numbers[name]:.2f} [{numbers[f'{name}/low']:.2f}, {numbers[f'{name}/high']:.2f}]"


def table(columns: dict[str, dict[str, float]], rows: Sequence[tuple[str, str]]) -> str:
    """Return a text table with a row per (label, metric) and a column per evaluation."""
    cells = [["", *columns]]
    cells += [
        [label, *(with_interval(numbers, name) if name in numbers else "-" for numbers in columns.values())]
        for label, name in rows
    ]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells
    )
