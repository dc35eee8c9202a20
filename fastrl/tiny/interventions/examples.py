"""Training examples of InT's solver as JSONL rows: solving, checking attempts, solving guided by a reference.

References have another notation than the solver's: "7+5>2" for 7+5=2. A check compares attempt and reference
step by step, writes both results, and ends at the first that differ (#) with the location and the new step:

    1:7+5=2
    7+5>2
    22=
    2:2*3=8
    2*3>6
    86#
    {"location":2,"content":"2*3=6"}

The results in examples of checks and guidance are random. So the solver must read them, and learns nothing
about operations there: it never sees the right result of an operation that it learnt wrong.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from random import Random
from typing import Any

from fastrl.tiny.interventions.config import IntConfig
from fastrl.tiny.world.notation import write_answer, write_explicit
from fastrl.tiny.world.task import Chain, Step
from fastrl.tiny.world.traces import Table, work, write_trace, wrong_entries

GUIDED_TEMPLATE = "{question}\n{reference}"
VERIFY_TEMPLATE = "{question}\n{reference}\n{steps}"
STEP_TEMPLATE, BETWEEN_STEPS = "{number}:{step}", "\n"


def hard_row(chain: Chain) -> dict[str, Any]:
    """Return a problem with its reference."""
    return {
        "prompt": chain.expression,
        "solution": str(chain.answer),
        "reference": written_reference(chain.steps),
        "expression": chain.expression,
    }


def written_reference(steps: Sequence[Step]) -> str:
    return "\n".join([*map(referred, steps), write_answer(steps[-1].result)])


def referred(step: Step) -> str:
    """Write a step in the notation of references."""
    return line_of(step).replace("=", ">")


def line_of(step: Step) -> str:
    return write_explicit(step).rstrip("\n")


def meets(chain: Chain, table: Table) -> bool:
    """Return True if the correct solution of a chain uses an operation that was learnt wrong."""
    return any((step.left, step.operation, step.right) in table for step in chain.steps)


def solver_row(config: IntConfig, chain: Chain, random: Random) -> dict[str, Any]:
    """Return an example of one of the three tasks."""
    world = config.world
    table = wrong_entries(world.num_wrong_entries, world.seed, world.chains.modulus)
    (task,) = random.choices(range(3), weights=config.task_shares)
    if task == 0:
        trace = work(chain, random, slip_rate=world.slip_rates[0], table=table)
        return {"prompt": chain.expression, "completion": trace}
    return check_row(config, chain, random) if task == 1 else guided_row(config, chain, random, table)


def arbitrary(chain: Chain, random: Random, known: Sequence[Step] = ()) -> list[Step]:
    """Return the known steps, then the chain's other operations with random results."""
    steps = list(known)
    for operation, operand in chain.terms[len(steps) :]:
        value = steps[-1].result if steps else chain.start
        steps.append(Step(value, operation, operand, random.randrange(chain.modulus)))
    return steps


def check_row(config: IntConfig, chain: Chain, random: Random) -> dict[str, Any]:
    """Return an attempt with a known first wrong step, and a check.

    The check is correct with probability right_share; otherwise it misses the step or proposes a wrong one.
    """
    place = random.randrange(len(chain.terms))
    right = arbitrary(chain, random)
    attempt = arbitrary(chain, random, [*right[:place], with_other_result(right[place], chain, random)])
    location, replacement = place, right[place]
    if random.random() >= config.right_share:
        location, replacement = misjudged(right, place, chain, random)
    log = [
        compared(number, attempt[number], right[number], differ=number == location)
        for number in range(location + 1)
    ]
    found = json.dumps({"location": location + 1, "content": line_of(replacement)}, separators=(",", ":"))
    prompt = VERIFY_TEMPLATE.format(
        question=chain.expression,
        reference=written_reference(right),
        steps=numbered(write_trace(tuple(attempt), "explicit", chain.modulus)),
    )
    return {"prompt": prompt, "completion": "".join(log) + found}


def compared(place: int, step: Step, reference: Step, *, differ: bool) -> str:
    """Write the check's lines for a step: attempt, reference, and both results with the verdict."""
    verdict = f"{step.result}{reference.result}{'#' if differ else '='}"
    return f"{place + 1}:{line_of(step)}\n{referred(reference)}\n{verdict}\n"


def numbered(attempt: str) -> str:
    """Return an attempt with numbered steps, as the check's prompt has it."""
    lines = enumerate(attempt.split("\n"), 1)
    return BETWEEN_STEPS.join(STEP_TEMPLATE.format(number=number, step=line) for number, line in lines)


def with_other_result(step: Step, chain: Chain, random: Random) -> Step:
    result = (step.result + random.randrange(1, chain.modulus)) % chain.modulus
    return Step(step.left, step.operation, step.right, result)


def misjudged(right: Sequence[Step], place: int, chain: Chain, random: Random) -> tuple[int, Step]:
    """Return a wrong check: (location, replacement).

    Half of them name another step, with the reference's step if it comes later. The others name the right
    step with a wrong result.
    """
    others = [k for k in range(len(right)) if k != place]
    chosen = random.choice(others) if others and random.random() < 0.5 else place
    return chosen, right[chosen] if chosen > place else with_other_result(right[chosen], chain, random)


def guided_row(config: IntConfig, chain: Chain, random: Random, table: Table) -> dict[str, Any]:
    """Return a trace guided by a reference in the prompt.

    In half of the rows the reference is whole, and the trace follows it or deviates in one result. In the
    others it has only the first steps, and the trace continues as the solver does without help.
    """
    count = len(chain.terms)
    guide = arbitrary(chain, random)
    if random.random() < 0.5:
        shown, steps = written_reference(guide), guide
        if random.random() >= config.right_share:
            place = random.randrange(count)
            steps = arbitrary(chain, random, [*guide[:place], with_other_result(guide[place], chain, random)])
        trace = write_trace(tuple(steps), "explicit", chain.modulus)
    else:
        known = random.randrange(count)
        shown = "\n".join(map(referred, guide[:known]))
        rest = Chain(start=guide[known].left, terms=chain.terms[known:], modulus=chain.modulus)
        trace = "".join(map(write_explicit, guide[:known]))
        trace += work(rest, random, slip_rate=config.world.slip_rates[0], table=table)
    return {
        "prompt": GUIDED_TEMPLATE.format(question=chain.expression, reference=shown),
        "completion": trace,
    }
