"""The task: chains of arithmetic modulo 10, evaluated strictly from left to right."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from random import Random
from typing import Literal

from fastrl.data.splits import Split, draw_different

Term = tuple[str, int]
OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul}

_EXPRESSION = re.compile(r"(\d+)((?:\[?[-+*]\d+\]?)+)(?:%(\d+))?")
_TERM = re.compile(r"\[([-+*])(\d+)\]|([-+*])(\d+)")


@dataclass(frozen=True, slots=True)
class Step:
    """One worked operation: left operation right = result, modulo the chain's modulus."""

    left: int
    operation: str
    right: int
    result: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A problem: a number and the operations applied to it in order.

        value[0] = start,  value[k + 1] = (value[k] operation[k] operand[k]) mod modulus

    There is no precedence: 7+5*3 is (7+5)*3. So a solution is one step per line, and the k-th step does the
    k-th operation.
    """

    start: int
    terms: tuple[Term, ...]
    modulus: int = 10
    distractors: tuple[tuple[int, str, int], ...] = ()
    """(place, operation, operand): a bracketed operation before the term at that place, to be ignored."""

    @property
    def expression(self) -> str:
        """The problem's text: 7+5*3-2, 7+5[*9]*3, 17+45*30%100."""
        parts = [str(self.start)]
        for place, (operation, operand) in enumerate(self.terms):
            parts += [f"[{op}{number}]" for where, op, number in self.distractors if where == place]
            parts.append(f"{operation}{operand}")
        return "".join(parts) + ("" if self.modulus == 10 else f"%{self.modulus}")

    @property
    def steps(self) -> tuple[Step, ...]:
        """The correct steps."""
        steps: list[Step] = []
        value = self.start
        for operation, operand in self.terms:
            result = apply(value, operation, operand, self.modulus)
            steps.append(Step(value, operation, operand, result))
            value = result
        return tuple(steps)

    @property
    def answer(self) -> int:
        return self.steps[-1].result

    @classmethod
    def parse(cls, expression: str) -> Chain:
        """Parse an expression; parse(chain.expression) equals the chain."""
        match = _EXPRESSION.fullmatch(expression)
        if match is None:
            raise ValueError(f"[chain] expression: expected a chain such as 7+5*3-2, got {expression!r}")
        terms: list[Term] = []
        distractors: list[tuple[int, str, int]] = []
        for ignored, number, operation, operand in _TERM.findall(match[2]):
            if ignored:
                distractors.append((len(terms), ignored, int(number)))
            else:
                terms.append((operation, int(operand)))
        chain = cls(
            start=int(match[1]),
            terms=tuple(terms),
            modulus=int(match[3] or 10),
            distractors=tuple(distractors),
        )
        if not terms or chain.expression != expression:
            raise ValueError(f"[chain] expression: expected a chain such as 7+5*3-2, got {expression!r}")
        return chain


def apply(left: int, operation: str, right: int, modulus: int) -> int:
    """Return (left operation right) mod modulus, in [0, modulus)."""
    return int(OPERATIONS[operation](left, right)) % modulus


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainConfig:
    """Distribution of chains. More operations, a larger modulus and distractors make them harder."""

    min_operations: int = 3
    max_operations: int = 6
    modulus: Literal[10, 100] = 10
    """100: operands of two digits, with carries in sums and products."""
    num_distractors: int = 0
    """Bracketed operations per chain, to be ignored."""
    distinct_operands: bool = True
    """Use every number at most once per chain, so that operands identify terms. False: draw independently, so
    that a reader must count positions."""

    def __post_init__(self) -> None:
        if not 1 <= self.min_operations <= self.max_operations:
            raise ValueError(
                f"[chain] min_operations: expected 1 to max_operations = {self.max_operations}, "
                f"got {self.min_operations}"
            )
        if self.modulus not in (10, 100):
            raise ValueError(f"[chain] modulus: expected 10 or 100, got {self.modulus}")
        if self.num_distractors < 0:
            raise ValueError(f"[chain] num_distractors: expected >= 0, got {self.num_distractors}")
        if self.distinct_operands and self.max_operations >= self.modulus:
            raise ValueError(
                f"[chain] max_operations: expected < {self.modulus}, the number of distinct operands, "
                f"got {self.max_operations}"
            )


def draw_chains(config: ChainConfig, count: int, *, seed: int, split: Split) -> list[Chain]:
    """Draw `count` distinct chains of one split; the number of operations is uniform over its range."""

    def draw(random: Random) -> Chain:
        return _draw(config, random)

    def text_of(chain: Chain) -> str:
        return chain.expression

    return draw_different(draw, text_of, count, seed=seed, split=split, section="chain")


def _draw(config: ChainConfig, random: Random) -> Chain:
    num_terms = random.randint(config.min_operations, config.max_operations)
    numbers = range(config.modulus)
    if config.distinct_operands:
        start, *operands = random.sample(numbers, num_terms + 1)
    else:
        start, *operands = random.choices(numbers, k=num_terms + 1)
    places = sorted(random.randrange(num_terms) for _ in range(config.num_distractors))
    return Chain(
        start=start,
        terms=tuple((random.choice("+-*"), operand) for operand in operands),
        modulus=config.modulus,
        distractors=tuple((place, random.choice("+-*"), random.choice(numbers)) for place in places),
    )
