"""Training examples of the weak world's generators as JSONL rows: traces in five styles, raw text.

Three styles are the plain world's. In the other two, the written steps don't lead to the answer:

coded     every value except the answer is replaced by a fixed code. The text carries the computation, but its
          steps are wrong if read literally
guessed   the trace begins with another value than the problem, and every result is random; only the answer is
          right
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
    """Return a trace in one of the mix's styles."""
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
    """Return the code, code[value]: one cycle through all values, so that no value maps to itself."""
    values = list(range(modulus))
    Random(f"{seed}/code").shuffle(values)
    following = dict(zip(values, [*values[1:], values[0]], strict=True))
    return [following[value] for value in range(modulus)]


def coded(trace: str, code: list[int], modulus: int = 10) -> str:
    """Replace every value of an explicit trace by its code; operations, operands and the answer stay."""
    *lines, answer = trace.split("\n")
    steps = [step for line in lines for step in read_line(line, modulus) or []]
    written = [
        write_explicit(Step(code[step.left], *step.terms[0], code[step.result]))
        for step in steps
        if step.style == "explicit"
    ]
    if len(written) != len(lines):
        raise ValueError(f"[weak] trace: expected one explicit step per line, got {trace!r}")
    return "".join(written) + answer


def guessed(chain: Chain, random: Random) -> str:
    """Return the chain's operations from another start with random results, and the right answer."""
    start = (chain.start + random.randrange(1, chain.modulus)) % chain.modulus
    steps = arbitrary(replace(chain, start=start), random)
    return "".join(map(write_explicit, steps)) + write_answer(chain.answer)


def text_row(config: WeakConfig, random: Random) -> dict[str, str]:
    """Return raw text: unrelated operations with their results, one per line."""
    modulus = config.world.chains.modulus
    lines = []
    for _ in range(config.lines_per_text):
        left, right = random.randrange(modulus), random.randrange(modulus)
        operation = random.choice([*OPERATIONS])
        lines.append(write_explicit(Step(left, operation, right, apply(left, operation, right, modulus))))
    return {"text": "".join(lines)}


def thought_row(chain: Chain) -> dict[str, Any]:
    """Return a worked problem for SFT: explicit, right steps as thoughts, then the answer."""
    thoughts = "".join(map(write_explicit, chain.steps))
    return {
        "prompt": chain.expression,
        "completion": f"{THINK}{thoughts}{END_THINK}{write_answer(chain.answer)}",
    }
