"""Reward of countdown: a formula is right if it uses each number exactly once and makes the target."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from fastrl.grading import extract_answer, normalize_answer
from fastrl.rewards.batch import CompletionInput, completion_text

LONGEST = 100
"""Longest formula that is read, in characters; a longer one is wrong."""
OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip
SIGNS = {"\\times": "*", "\\cdot": "*", "\\div": "/"}


def countdown(
    completions: Sequence[CompletionInput],
    numbers: Sequence[Sequence[int]],
    target: Sequence[int],
    **columns: Any,
) -> list[float]:
    """Return 1 for each completion whose boxed formula solves its problem, otherwise 0."""
    formulas = [extract_answer(completion_text(each), "boxed") for each in completions]
    return [
        float(formula is not None and solves(formula, given, wanted))
        for formula, given, wanted in zip(formulas, numbers, target, strict=True)
    ]


def solves(formula: str, numbers: Sequence[int], target: int) -> bool:
    """Return whether a formula of + - * / uses each number exactly once and makes the target."""
    formula = normalize_answer(formula)
    for command, sign in SIGNS.items():
        formula = formula.replace(command, sign)
    if len(formula) > LONGEST or not set(formula) <= set("0123456789+-*/() "):
        return False
    try:
        used: list[int] = []
        value = evaluate(ast.parse(formula.strip(), mode="eval").body, used)
    except (SyntaxError, ValueError, ZeroDivisionError):
        return False
    return value == target and sorted(used) == sorted(numbers)


def evaluate(node: ast.expr, used: list[int]) -> Fraction:
    """Return the exact value of a formula, and append its numbers to `used`.

    Raises:
        ValueError: it has anything but integers and the four operations.
    """
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        used.append(node.value)
        return Fraction(node.value)
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS:
        left, right = evaluate(node.left, used), evaluate(node.right, used)
        return OPERATIONS[type(node.op)](left, right)
    raise ValueError(f"[countdown] formula: expected numbers, +, -, * and /, got {ast.dump(node)}")
