"""How good interventions and solvers are, judged exactly: where a trace first goes wrong, what is right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from fastrl.config import DataConfig, StepsConfig
from fastrl.data import load_problems
from fastrl.data.rows import Row
from fastrl.engine.tree.engine import TorchEngine
from fastrl.evaluate.accuracy import evaluate
from fastrl.grading import AnswerGrader
from fastrl.methods.interventions.problems import hard_problem
from fastrl.methods.interventions.segment import Steps
from fastrl.rewards.batch import mean
from fastrl.runtime.seeding import seed_of
from fastrl.tiny.world.check import check_trace
from fastrl.tiny.world.measure import measure
from fastrl.tiny.world.notation import read_line
from fastrl.tiny.world.task import Chain, apply
from fastrl.tiny.world.traces import Table
from fastrl.types import SamplingParams

GROUPS: dict[str, Callable[[Row], bool]] = {
    "read": lambda row: row["location"] is not None,
    "distinct": lambda row: row["success"] is not None,
    "selected": lambda row: row["outcome"] == "selected",
}
"""Candidates that are judged: all that could be read, those that were continued, those that are taught."""


def intervention_quality(
    hard: Sequence[Row], candidates: Sequence[Row], steps: StepsConfig
) -> dict[str, float]:
    """Locations and contents against the step checker.

        exact = location is the first wrong step / candidates     within_one = at most one step beside it
        right = prefix + intervention has no wrong step / candidates

    Args:
        hard: rows of hard.jsonl, with expression.
        candidates: rows of interventions.jsonl.
        steps: as the intervene stage cut the attempts.
    Returns: <group>/<name> and <group>/count, of all candidates that could be read, of those that were
        continued, and of those that were selected; a group without any has its count alone.
    """
    problems = [hard_problem(index, row, steps) for index, row in enumerate(hard)]
    numbers = {}
    for name, belongs in GROUPS.items():
        rows = [row for row in candidates if belongs(row)]
        numbers[f"{name}/count"] = float(len(rows))
        distances, right = [], []
        for row in rows:
            chain = Chain.parse(hard[row["problem"]]["expression"])
            attempt = problems[row["problem"]].attempts[row["attempt"]]
            distances.append(abs(row["location"] - first_wrong(chain, attempt)))
            begun = check_trace(chain, attempt.before(row["location"]) + row["content"])
            right.append(begun.first_wrong is None)
        if rows:
            numbers[f"{name}/exact"] = mean([distance == 0 for distance in distances])
            numbers[f"{name}/within_one"] = mean([distance <= 1 for distance in distances])
            numbers[f"{name}/right"] = mean(right)
    return numbers


def first_wrong(chain: Chain, attempt: Steps) -> int:
    """The first wrong line of an explicit attempt, from 1; where each step is right, that of the answer."""
    found = check_trace(chain, attempt.text).first_wrong
    return len(attempt) if found is None else found + 1


def assess_solver(
    checkpoint: Path, problems: Path, table: Table, *, num_problems: int, num_samples: int, seed: int
) -> dict[str, float]:
    """avg@n, pass@k and maj@k of a solver, and its steps.

        entropy = - mean log p(token), over the tokens it sampled at temperature 1
        hard_steps_right = right results / steps that do an operation which was learnt wrong

    Args:
        problems: JSONL with expression.
        table: the operations learnt wrong.
    """
    chosen = load_problems(DataConfig(path=str(problems), limit=num_problems))
    engine = TorchEngine.from_pretrained(str(checkpoint), dtype=torch.float32, device=torch.device("cpu"))
    with AnswerGrader(num_workers=1, timeout_s=5.0) as grader:
        result = evaluate(
            engine,
            chosen,
            grader,
            num_samples=num_samples,
            sampling=SamplingParams(max_new_tokens=64),
            seed=seed_of(seed, "assess_solver"),
        )
    rows = [(r.problem.columns["expression"], c.text) for r in result.problems for c in r.completions]
    logprobs = [value for own in result.completions for each in own for value in each.logprobs]
    expressions, texts = zip(*rows, strict=True)
    notation = measure(expressions, texts)
    hard_steps = [right for text in texts for right in hard_steps_of(text, table)]
    numbers = dict(result.metrics) | {
        "entropy": -mean(logprobs),
        "step_accuracy": notation.get("step_accuracy", 0.0),
        "style/explicit": notation["style/explicit"],
    }
    return numbers | ({"hard_steps_right": mean(hard_steps)} if hard_steps else {})


def hard_steps_of(text: str, table: Table, modulus: int = 10) -> list[bool]:
    """Whether the result is right, of each explicit step that does an operation of the table."""
    found = []
    for line in text.split("\n"):
        for step in read_line(line, modulus) or []:
            (operation, right), *more = step.terms
            if step.style == "explicit" and not more and (step.left, operation, right) in table:
                found.append(step.result == apply(step.left, operation, right, modulus))
    return found
