"""TraceLift's two tasks over the same chains: state the value, or write a program that uses it.

math   7+5*3-2        the answer is the chain's value: 4
code   x*(7+5*3-2)    the answer is a program that reads x and prints x times that value, modulo 10
"""

from __future__ import annotations

from random import Random
from typing import Any

from fastrl.tiny.world.examples import problem_row
from fastrl.tiny.world.task import Chain
from fastrl.types import Task

PROMPT = "{question}\n"
PROMPT_WITH_TRACE = "{question}\n{trace}"
"""Prompts that the executors are trained with: executor.prompt and executor.prompt_with_trace."""


def question(task: Task, chain: Chain) -> str:
    return chain.expression if task == "math" else f"x*({chain.expression})"


def answer(task: Task, chain: Chain) -> str:
    """Return the expected answer of an executor: the value or the program."""
    return str(chain.answer) if task == "math" else program(chain.answer, chain.modulus)


def program(value: int, modulus: int = 10) -> str:
    return f"print(int(input())*{value}%{modulus})"


def program_tests(chain: Chain, count: int, seed: int | str) -> list[dict[str, str]]:
    """Return tests of a program; the first x is invertible modulo 10, so any wrong value fails."""
    random = Random(f"{seed}/tests/{chain.expression}")
    first = random.choice([1, 3, 7, 9])
    rest = random.sample([x for x in range(2, 20) if x != first], count - 1)
    return [{"stdin": str(x), "stdout": str(x * chain.answer % chain.modulus)} for x in (first, *rest)]


def task_row(task: Task, chain: Chain, num_tests: int, seed: int | str) -> dict[str, Any]:
    """Return a problem's row: prompt, solution, expression, and tests for code."""
    if task == "math":
        return problem_row(chain)
    return {
        "prompt": question(task, chain),
        "solution": answer(task, chain),
        "expression": chain.expression,
        "tests": program_tests(chain, num_tests, seed),
    }
