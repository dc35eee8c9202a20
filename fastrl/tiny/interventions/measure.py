"""Exact metrics of interventions and solvers, from the step checker."""

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
"""Groups of candidates: all parsed ones, those whose success was measured, the selected ones."""


def intervention_quality(
    hard: Sequence[Row], candidates: Sequence[Row], steps: StepsConfig
) -> dict[str, float]:
    """Compare locations and contents of interventions with the step checker.

        exact = fraction of candidates located at the first wrong step;  within_one = at most one step off
        right = fraction of candidates with no wrong step in prefix + intervention

    Args:
        hard: rows of hard.jsonl, with expression.
        candidates: rows of interventions.jsonl.
        steps: segmentation options of the intervene stage.
    Returns: <group>/<name> and <group>/count for each of GROUPS; an empty group has only its count.
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
    """Return the first wrong line of an explicit attempt, from 1; without a wrong step, the answer's line."""
    found = check_trace(chain, attempt.text).first_wrong
    return len(attempt) if found is None else found + 1


def assess_solver(
    checkpoint: Path, problems: Path, table: Table, *, num_problems: int, num_samples: int, seed: int
) -> dict[str, float]:
    """Evaluate a solver: avg@n, pass@k, maj@k, and metrics of its steps.

        entropy = - mean log p(token), over tokens sampled at temperature 1
        hard_steps_right = fraction of right results among steps with an operation that was learnt wrong

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
    logprobs = [value for own in result.completions for completion in own for value in completion.logprobs]
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
    """Return True or False for the result of each explicit step with an operation of the table."""
    found = []
    for line in text.split("\n"):
        for step in read_line(line, modulus) or []:
            (operation, right), *more = step.terms
            if step.style == "explicit" and not more and (step.left, operation, right) in table:
                found.append(step.result == apply(step.left, operation, right, modulus))
    return found
