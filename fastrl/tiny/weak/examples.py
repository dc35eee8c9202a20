"""What the generators of the weak world learn from, as rows of JSONL files: traces in five styles, raw text.

Three styles are the plain world's. In two more, what is written is not what the answer comes from:

coded     every value but the answer is written as another one, by a code that never changes. What is written
          carries the computation, and its steps are wrong for all who read them as they stand
guessed   it begins with another value than the problem, and every result is arbitrary; only the answer is
          right, and nothing that is written leads to it
"""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

from fastrl.tiny.interventions.examples import arbitrary
from fastrl.tiny.weak.config import MIXES, WEAK_STYLES, WeakConfig
from fastrl.tiny.world.notation import read_line, write_answer, write_explicit
from fastrl.tiny.world.task import OPERATIONS, Chain, Step, apply
from fastrl.tiny.world.traces import work

THINK, END_THINK = "<think>\n", "</think>\n"


def weak_row(config: WeakConfig, chain: Chain, random: Random) -> dict[str, Any]:
    """A trace in one of the mix's styles."""
    mix = MIXES[config.mix]
    (place,) = random.choices(range(len(WEAK_STYLES)), weights=mix.shares)
    style = WEAK_STYLES[place]
    if style == "guessed":
        trace = guessed(chain, random)
    elif style == "coded":
        code = secret_code(config.world.seed, chain.modulus)
        trace = coded(work(chain, random, slip_rate=mix.slip_rates[place]), code)
    else:
        trace = work(chain, random, style=style, slip_rate=mix.slip_rates[place])
    return {"prompt": chain.expression, "completion": trace}


def secret_code(seed: int, modulus: int = 10) -> list[int]:
    """code[value] is what is written for it: one cycle through all values, so no value stands for itself."""
    values = list(range(modulus))
    Random(f"{seed}/code").shuffle(values)
    following = dict(zip(values, [*values[1:], values[0]], strict=True))
    return [following[value] for value in range(modulus)]


def coded(trace: str, code: list[int], modulus: int = 10) -> str:
    """An explicit trace with every value in code; operations, operands and the answer stay."""
    *lines, answer = trace.split("\n")
    steps = [step for line in lines for step in read_line(line, modulus) or []]
    written = [
        write_explicit(Step(code[step.left], *step.terms[0], code[step.result]))
        for step in steps
        if step.style == "explicit"
    ]
    if len(written) != len(lines):
        raise ValueError(f"[weak] trace: expected one explicit step a line, got {trace!r}")
    return "".join(written) + answer


def guessed(chain: Chain, random: Random) -> str:
    """The chain's operations from another start with any results, and the right answer."""
    start = (chain.start + random.randrange(1, chain.modulus)) % chain.modulus
    steps = arbitrary(replace(chain, start=start), random)
    return "".join(map(write_explicit, steps)) + write_answer(chain.answer)


def text_row(config: WeakConfig, random: Random) -> dict[str, str]:
    """Raw text: operations with their results, a line each, about nothing in particular."""
    modulus = config.world.chains.modulus
    lines = []
    for _ in range(config.lines_per_text):
        left, right = random.randrange(modulus), random.randrange(modulus)
        operation = random.choice([*OPERATIONS])
        lines.append(write_explicit(Step(left, operation, right, apply(left, operation, right, modulus))))
    return {"text": "".join(lines)}


def thought_row(chain: Chain) -> dict[str, Any]:
    """A worked problem for SFT: explicit, right steps as thoughts, then the answer."""
    thoughts = "".join(map(write_explicit, chain.steps))
    return {
        "prompt": chain.expression,
        "completion": f"{THINK}{thoughts}{END_THINK}{write_answer(chain.answer)}",
    }
