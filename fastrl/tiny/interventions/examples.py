"""What InT's solver learns from, as rows of JSONL files: solving, checking attempts, solving under guidance.

A reference is written by another hand than the solver's: "7+5>2" for its 7+5=2. A check goes through attempt
and reference side by side, puts their results next to each other, and ends at the first that differ (#) with
where that is and what should stand there:

    1:7+5=2
    7+5>2
    22=
    2:2*3=8
    2*3>6
    86#
    {"location":2,"content":"2*3=6"}

The results in examples of checks and guidance are arbitrary. So they have to be read, and nothing is learnt
about the operations there: what the solver has learnt wrong it has not seen right anywhere.
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
    """A problem with its reference."""
    return {
        "prompt": chain.expression,
        "solution": str(chain.answer),
        "reference": written_reference(chain.steps),
        "expression": chain.expression,
    }


def written_reference(steps: Sequence[Step]) -> str:
    return "\n".join([*map(referred, steps), write_answer(steps[-1].result)])


def referred(step: Step) -> str:
    """A step as references have it."""
    return line_of(step).replace("=", ">")


def line_of(step: Step) -> str:
    return write_explicit(step).rstrip("\n")


def meets(chain: Chain, table: Table) -> bool:
    """Whether the right way through a chain does an operation that was learnt wrong."""
    return any((step.left, step.operation, step.right) in table for step in chain.steps)


def solver_row(config: IntConfig, chain: Chain, random: Random) -> dict[str, Any]:
    """An example of one of the three tasks."""
    world = config.world
    table = wrong_entries(world.num_wrong_entries, world.seed, world.chains.modulus)
    (task,) = random.choices(range(3), weights=config.task_shares)
    if task == 0:
        trace = work(chain, random, slip_rate=world.slip_rates[0], table=table)
        return {"prompt": chain.expression, "completion": trace}
    return check_row(config, chain, random) if task == 1 else guided_row(config, chain, random, table)


def arbitrary(chain: Chain, random: Random, known: Sequence[Step] = ()) -> list[Step]:
    """The chain's operations after the known steps, each with any result."""
    steps = list(known)
    for operation, operand in chain.terms[len(steps) :]:
        value = steps[-1].result if steps else chain.start
        steps.append(Step(value, operation, operand, random.randrange(chain.modulus)))
    return steps


def check_row(config: IntConfig, chain: Chain, random: Random) -> dict[str, Any]:
    """An attempt with one known first wrong step; its check is right in right_share of the rows, and else
    misses the step or replaces it by another wrong one."""
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
    """A step of an attempt beside the reference's, and whether they are said to differ."""
    verdict = f"{step.result}{reference.result}{'#' if differ else '='}"
    return f"{place + 1}:{line_of(step)}\n{referred(reference)}\n{verdict}\n"


def numbered(attempt: str) -> str:
    """An attempt as it is shown to who checks it."""
    lines = enumerate(attempt.split("\n"), 1)
    return BETWEEN_STEPS.join(STEP_TEMPLATE.format(number=number, step=line) for number, line in lines)


def with_other_result(step: Step, chain: Chain, random: Random) -> Step:
    result = (step.result + random.randrange(1, chain.modulus)) % chain.modulus
    return Step(step.left, step.operation, step.right, result)


def misjudged(right: Sequence[Step], place: int, chain: Chain, random: Random) -> tuple[int, Step]:
    """A wrong check: half of them of another step, which is the reference's where it comes later; else one
    with another result than the reference's."""
    others = [k for k in range(len(right)) if k != place]
    chosen = random.choice(others) if others and random.random() < 0.5 else place
    return chosen, right[chosen] if chosen > place else with_other_result(right[chosen], chain, random)


def guided_row(config: IntConfig, chain: Chain, random: Random, table: Table) -> dict[str, Any]:
    """The solver's own trace beside a reference, whole in half of the rows: there it follows it, or has one
    other result. Beside the first steps of one it follows these, and goes on as it does alone."""
    count = len(chain.terms)
    told = arbitrary(chain, random)
    if random.random() < 0.5:
        shown, steps = written_reference(told), told
        if random.random() >= config.right_share:
            place = random.randrange(count)
            steps = arbitrary(chain, random, [*told[:place], with_other_result(told[place], chain, random)])
        trace = write_trace(tuple(steps), "explicit", chain.modulus)
    else:
        known = random.randrange(count)
        shown = "\n".join(map(referred, told[:known]))
        rest = Chain(start=told[known].left, terms=chain.terms[known:], modulus=chain.modulus)
        trace = "".join(map(write_explicit, told[:known]))
        trace += work(rest, random, slip_rate=config.world.slip_rates[0], table=table)
    return {
        "prompt": GUIDED_TEMPLATE.format(question=chain.expression, reference=shown),
        "completion": trace,
    }
