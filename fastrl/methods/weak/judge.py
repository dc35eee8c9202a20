"""A judge model that labels responses, and the agreement of two judges."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fastrl.data import render_prompt
from fastrl.engine.protocol import Engine
from fastrl.runtime.seeding import seed_of
from fastrl.types import SamplingParams

Reject = Literal["unfinished", "no_label", "several_labels", "not_last"]
ALIGNMENT = ("1", "0.5", "0")
"""The reasoning supports the answer: fully, partly, not at all."""
DIFFERENCE = ("yes", "no")
"""The two strategies differ, or they don't."""

ALIGNMENT_PROMPT = """\
Below are a problem and a response to it. Judge one thing only: does the reasoning that is written down carry
the final answer that the response gives? Whether this answer is the right one is none of your business: a
clean derivation of a wrong answer is aligned, and a right answer out of nowhere is not.

||1||    aligned: step follows from step up to the answer given; small slips that change nothing are let pass.
||0.5||  partly: it is about this problem, but it leaps, leaves out what matters or has errors, so that a
         reader would have to fill in much to reach the answer.
||0||    not aligned: the answer contradicts the reasoning, comes from another method than the one shown, or
         is a guess that nothing supports.

<problem>
{problem}
</problem>

<response>
{response}
</response>

Give your reasons in a few sentences. Then end with one label, exactly as it is written above, and nothing
after it. Write no other label anywhere."""

DIFFERENCE_PROMPT = """\
Below are a problem and two responses to it. Do they take different ways to the answer? They do where the
main idea differs, or where a decisive step in between is done by another argument. They do not where only
the wording, the order of independent steps, the layout or a number differs, nor because one of them errs.

<problem>
{problem}
</problem>

<first>
{first}
</first>

<second>
{second}
</second>

Name the way of each in one sentence. Then end with one label and nothing after it: ||yes|| if the ways are
different, ||no|| if they are the same. Write no other label anywhere."""


@dataclass(frozen=True, slots=True)
class Judgments:
    """A judge's labels for a list of questions."""

    labels: list[str | None]
    """None: no reply was readable."""
    rejects: Counter[Reject]
    """Unreadable replies by cause, including those that a retry replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """Labels questions with a model on any engine; a question's label depends only on (seed, question)."""

    engine: Engine
    sampling: SamplingParams
    retries: int = 2
    """Largest number of retries after an unreadable reply, each with another seed. A greedy judge isn't
    retried: it would repeat its reply."""
    seed: int = 0

    def ask(self, questions: Sequence[str], labels: Sequence[str]) -> Judgments:
        """Return the label that ends the reply to each question; equal questions share one request."""
        found: dict[str, str] = {}
        rejects: Counter[Reject] = Counter()
        waiting = list(dict.fromkeys(questions))
        for attempt in range(1 + self.retries if self.sampling.temperature else 1):
            if not waiting:
                break
            replies = self.engine.generate(
                [render_prompt(self.engine.tokenizer, [{"role": "user", "content": q}]) for q in waiting],
                self.sampling,
                seeds=[seed_of(self.seed, "judge", attempt, question) for question in waiting],
            )
            for question, (reply,) in zip(waiting, replies, strict=True):
                finished = reply.finish_reason == "stop"
                reject = why_unreadable(reply.text, labels) if finished else "unfinished"
                if reject is None:
                    found[question] = stated_labels(reply.text, labels)[0]
                else:
                    rejects[reject] += 1
            waiting = [question for question in waiting if question not in found]
        return Judgments([found.get(question) for question in questions], rejects)

    def alignment(self, problems: Sequence[str], responses: Sequence[str]) -> Judgments:
        """Label the faithfulness of each response "1", "0.5" or "0"."""
        pairs = zip(problems, responses, strict=True)
        return self.ask([filled(ALIGNMENT_PROMPT, problem=p, response=r) for p, r in pairs], ALIGNMENT)

    def difference(self, problems: Sequence[str], pairs: Sequence[tuple[str, str]]) -> Judgments:
        """Label each pair of responses to a problem "yes" if their strategies differ, else "no"."""
        questions = [
            filled(DIFFERENCE_PROMPT, problem=problem, first=first, second=second)
            for problem, (first, second) in zip(problems, pairs, strict=True)
        ]
        return self.ask(questions, DIFFERENCE)


def filled(template: str, **parts: str) -> str:
    """Replace every {name} in the template, in one pass: braces in the parts stay as they are."""
    return re.sub(r"\{(\w+)\}", lambda match: parts[match[1]], template)


def stated_labels(text: str, labels: Sequence[str]) -> list[str]:
    """Return all labels between double bars, in order."""
    return re.findall(rf"\|\|({'|'.join(map(re.escape, labels))})\|\|", text)


def why_unreadable(text: str, labels: Sequence[str]) -> Reject | None:
    """Return the reject reason; None if the text holds exactly one label and ends with it."""
    stated = stated_labels(text, labels)
    if not stated:
        return "no_label"
    if len(stated) > 1:
        return "several_labels"
    return None if text.rstrip().endswith(f"||{stated[0]}||") else "not_last"


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Agreement of two judges on the same items."""

    kappa: float | None
    """Cohen's kappa; None if both always give the same single label (p_e = 1)."""
    observed: float
    """Fraction of items on which they agree."""
    table: dict[str, dict[str, int]]
    """[first judge's label][second judge's label] -> items."""
    num_items: int
    num_left_out: int
    """Items without a label from both judges."""


def agreement(first: Sequence[str | None], second: Sequence[str | None], labels: Sequence[str]) -> Agreement:
    """Compute the confusion table and Cohen's kappa.

        kappa = (p_o - p_e) / (1 - p_e),   p_o = fraction of equal labels,
        p_e = sum over labels of (its fraction by the first judge) * (its fraction by the second)

    Raises:
        ValueError: no item has labels from both judges, or a label is not in `labels`.
    """
    both = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    strange = sorted({label for pair in both for label in pair} - set(labels))
    if strange or not both:
        got = f"the label {strange[0]!r}" if strange else "no item that both judged"
        raise ValueError(f"[agreement] labels: expected some among {', '.join(labels)}, got {got}")
    table = {a: {b: both.count((a, b)) for b in labels} for a in labels}
    observed = sum(table[label][label] for label in labels) / len(both)
    # integers, so that p_e == 1 is detected exactly
    by_chance = sum(sum(table[x].values()) * sum(row[x] for row in table.values()) for x in labels)
    expected = by_chance / len(both) ** 2
    return Agreement(
        kappa=None if by_chance == len(both) ** 2 else (observed - expected) / (1 - expected),
        observed=observed,
        table=table,
        num_items=len(both),
        num_left_out=len(first) - len(both),
    )
