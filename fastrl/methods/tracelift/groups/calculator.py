"""Flawed traces from worked solutions: one edit, with all later numbers recalculated exactly.

Labels need no judge: the kind of flaw decides which score is lowered, and edits know if the answer survives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from random import Random

from fastrl.methods.tracelift.groups.drafts import Draft, by_rule
from fastrl.methods.tracelift.groups.edits import apply_edits
from fastrl.methods.tracelift.groups.flaw import Flaw, Work
from fastrl.methods.tracelift.groups.line_flaws import (
    no_conclusion,
    order_mixup,
    skipped_step,
    unit_mixup,
    wrong_conclusion,
)
from fastrl.methods.tracelift.groups.number_flaws import (
    arithmetic_slip,
    missing_condition,
    wrong_operation,
    wrong_quantity_read,
)
from fastrl.methods.tracelift.groups.rationale import NUMBER, Rationale, read_number

LOST_ANSWER = 3.0
"""Score of answer_support if the trace ends in another answer or none."""
WORDS = {
    "half": 2, "twice": 2, "double": 2, "doubled": 2, "doubles": 2, "pair": 2, "triple": 3, "tripled": 3,
    "thrice": 3, "third": 3, "quarter": 4, "fourth": 4, "dozen": 12, "hundred": 100, "thousand": 1000,
    "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16,
    "seventeen": 17, "eighteen": 18, "nineteen": 19, "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50,
    "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
}  # fmt: skip
"""Number words of a question; an equal number in the solution may come from them."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of flaw."""

    dimension: str
    score: float
    """Score of that dimension. The others stay 10, except answer_support if the answer is lost."""
    flaws: Callable[[Work, Random], Iterator[Flaw]]


KINDS = {
    "wrong_quantity_read": Kind("problem_understanding", 1.0, wrong_quantity_read),
    "missing_condition": Kind("problem_understanding", 2.0, missing_condition),
    "wrong_operation": Kind("solution_strategy", 1.0, wrong_operation),
    "arithmetic_slip": Kind("calculation_correctness", 1.0, arithmetic_slip),
    "skipped_step": Kind("step_coherence", 2.0, skipped_step),
    "order_mixup": Kind("step_coherence", 3.0, order_mixup),
    "unit_mixup": Kind("step_coherence", 3.0, unit_mixup),
    "wrong_conclusion": Kind("answer_support", 1.0, wrong_conclusion),
    "no_conclusion": Kind("answer_support", 1.0, no_conclusion),
}


def work_of(question: str, rationale: Rationale) -> Work:
    """Pair a rationale with the numbers of its question, in digits and in words."""
    given = frozenset(read_number(match.group()) for match in NUMBER.finditer(question))
    words = frozenset(question.lower().replace("-", " ").replace(".", " ").replace(",", " ").split())
    return Work(rationale, given, given | {Fraction(WORDS[word]) for word in words & WORDS.keys()})


def perturb(work: Work, count: int, random: Random) -> list[Draft]:
    """Draft at most `count` flawed traces, cycling through the kinds of flaws."""
    waiting = [(name, kind.flaws(work, random)) for name, kind in KINDS.items()]
    random.shuffle(waiting)
    drafts: dict[str, Draft] = {}
    while waiting and len(drafts) < count:
        name, flaws = waiting.pop(0)
        flaw = next(flaws, None)
        if flaw is None:
            continue
        waiting.append((name, flaws))
        draft = labelled(work.rationale, name, flaw)
        drafts.setdefault(draft.text, draft)
    return list(drafts.values())


def labelled(rationale: Rationale, name: str, flaw: Flaw) -> Draft:
    """Apply a flaw to the text and label it by the rule of its kind."""
    text, place = apply_edits(rationale.text, flaw.edits, flaw.cause)
    lost = {} if flaw.keeps_answer else {"answer_support": LOST_ANSWER}
    judgment = by_rule("math", lost | {KINDS[name].dimension: KINDS[name].score})
    return Draft(text=text, negative_kind=name, place=place, judgment=judgment)
