"""Synthetic traces: three styles, random slips, systematic errors, and corruptions at a known step."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Literal

from fastrl.tiny.world.notation import Style, write_answer, write_explicit, write_leap, write_private
from fastrl.tiny.world.task import Chain, Step, apply

Corruption = Literal["start", "operator", "operand", "result"]
Table = Mapping[tuple[int, str, int], int]
"""Systematically wrong results by (left, operation, right); all other operations are right."""


def reference_solution(chain: Chain) -> str:
    """Return the right trace, one operation per line, with its boxed answer."""
    return write_trace(chain.steps, "explicit", chain.modulus)


def write_trace(steps: tuple[Step, ...], style: Style, modulus: int = 10) -> str:
    """Write steps in one of the styles, and the last result as the boxed answer."""
    answer = write_answer(steps[-1].result)
    if style == "private":
        return write_private(steps, modulus) + answer
    if style == "explicit":
        return "".join(write_explicit(step) for step in steps) + answer
    pairs = [write_leap(steps[k], steps[k + 1]) for k in range(0, len(steps) - 1, 2)]
    last = [write_explicit(steps[-1])] if len(steps) % 2 else []
    return "".join(pairs + last) + answer


def work(
    chain: Chain,
    random: Random,
    *,
    style: Style = "explicit",
    slip_rate: float = 0.0,
    table: Table | None = None,
) -> str:
    """Return a trace with errors.

        result[k] = table[left, op, right] if it has the entry, else (left op right) mod modulus;
        with probability slip_rate a written step has another result, from which the trace continues

    A leap is one written step of two operations, so it has one chance to slip instead of two.
    """
    steps: list[Step] = []
    value = chain.start
    for place, (operation, operand) in enumerate(chain.terms):
        exact = apply(value, operation, operand, chain.modulus)
        result = exact if table is None else table.get((value, operation, operand), exact)
        shown = style != "leap" or place % 2 == 1 or place == len(chain.terms) - 1
        if shown and random.random() < slip_rate:
            result = _another(result, chain.modulus, random)
        steps.append(Step(value, operation, operand, result))
        value = result
    return write_trace(tuple(steps), style, chain.modulus)


def wrong_entries(count: int, seed: int, modulus: int = 10) -> dict[tuple[int, str, int], int]:
    """Return a table of systematic errors: `count` operations, each with one fixed wrong result."""
    random = Random(f"{seed}/table")
    entries = [(left, op, right) for left in range(modulus) for op in "+-*" for right in range(modulus)]
    chosen = random.sample(entries, count)
    return {entry: _another(apply(*entry, modulus), modulus, random) for entry in chosen}


def corrupt(chain: Chain, place: int, kind: Corruption, random: Random, *, propagate: bool = True) -> str:
    """Return the explicit trace with one wrong step at `place`; check_trace finds this step and kind.

    start: continues from another value; operator, operand: does another operation; result: wrong result.

    Args:
        propagate: later steps and the answer continue from the wrong value. False: they continue from the
            right one, so that the next step's start disagrees with the wrong result.
    """
    steps = list(chain.steps)
    if not 0 <= place < len(steps):
        raise ValueError(f"[corrupt] place: expected 0 to {len(steps) - 1}, got {place}")
    steps[place] = _spoil(steps[place], kind, chain.modulus, random)
    for later in range(place + 1, len(steps)):
        if propagate:
            left = steps[later - 1].result
            step = steps[later]
            result = apply(left, step.operation, step.right, chain.modulus)
            steps[later] = Step(left, step.operation, step.right, result)
    return write_trace(tuple(steps), "explicit", chain.modulus)


def _spoil(step: Step, kind: Corruption, modulus: int, random: Random) -> Step:
    left, operation, right = step.left, step.operation, step.right
    if kind == "result":
        return Step(left, operation, right, _another(step.result, modulus, random))
    if kind == "start":
        left = _another(left, modulus, random)
    elif kind == "operator":
        operation = random.choice([other for other in "+-*" if other != operation])
    else:
        right = _another(right, modulus, random)
    return Step(left, operation, right, apply(left, operation, right, modulus))


def _another(value: int, modulus: int, random: Random) -> int:
    """Return another value in [0, modulus)."""
    return (value + random.randrange(1, modulus)) % modulus
