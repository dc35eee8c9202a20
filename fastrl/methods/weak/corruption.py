"""Tests whether a model uses its own steps: corrupt one step, let the model continue, compare the answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from fastrl.config import TransferConfig
from fastrl.data.prompts import encode_inside
from fastrl.engine.protocol import Engine
from fastrl.evaluate.accuracy import ProblemResult
from fastrl.evaluate.metrics import bootstrap_interval
from fastrl.grading import AnswerGrader, answer_start
from fastrl.methods.weak.faithfulness import (
    answered,
    by_problem,
    by_response,
    continued,
    share_correct,
)
from fastrl.rewards.batch import mean
from fastrl.rewards.cuts import Cut
from fastrl.rewards.receiver import Receiver
from fastrl.runtime.seeding import seed_of

# a longer number is no result of a step
NUMBER = re.compile(r"(?<![\w.,])\d{1,100}(?!\w|[.,]\d)")
RESULT = re.compile(r"=\s*(\d{1,100})(?!\w|[.,]\d)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Corruption:
    """A response's prefix up to some step, unchanged and with that step corrupted."""

    kept: str
    """The unchanged prefix."""
    spoilt: str
    """The prefix with the corrupted step."""


Corrupt = Callable[[str, Random], Corruption | None]
"""Corrupts one step of a response, given its random generator; None if no step can be corrupted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerChanges:
    """Effect of a corrupted step on the final answer."""

    corrupted: float
    """Fraction of continuations after the corrupted step that don't end in the original answer."""
    control: float
    """The same after the unchanged step: how often sampling changes the answer without a corruption."""
    effect: float
    """corrupted - control, averaged over problems."""
    low: float
    high: float
    """95 % interval of `effect` over problems."""
    per_problem: dict[int, tuple[float, float]]
    """{problem's row: (corrupted, control)}."""
    per_response: dict[tuple[int, int], list[float]]
    """{(problem's row, sample): [corrupted, control]}."""
    unfinished: float
    """Fraction of truncated continuations; they count as changed."""
    num_completions: int
    """Completions measured."""
    num_unanswered: int
    """Completions that state no answer; excluded."""
    num_uncorrupted: int
    """Completions without a step that can be corrupted; excluded."""


def answer_changes(
    engine: Engine, results: Sequence[ProblemResult], corrupt: Corrupt, grader: AnswerGrader, *, seed: int,
    max_new_tokens: int, slack_tokens: int = 0, num_samples: int = 1, temperature: float = 0.0,
    top_p: float = 1.0, stop: tuple[str, ...] = (),
) -> AnswerChanges:  # fmt: skip
    """Corrupt one step of every response, let the same model continue, and measure how often the answer
    changes. The control continues after the unchanged step.

        corrupted = mean over problems, responses, samples of 1[answer after corrupted step != final answer]

    Args:
        results: graded responses of this model.
        corrupt: called with a response's text and Random(seed, row, sample).
        max_new_tokens: longest response.
        slack_tokens: a continuation gets the tokens that the prefix leaves of max_new_tokens + slack_tokens.
        temperature: 0 is greedy: one sample is enough.
        stop: strings that end a response, in addition to the tokenizer's end token.
    Raises:
        ValueError: no response states an answer, or none of those has a step that can be corrupted.
    """
    config = TransferConfig(
        num_continuations=num_samples, temperature=temperature, top_p=top_p, slack_tokens=slack_tokens
    )
    reader = Receiver(engine, engine.tokenizer, grader, config, max_new_tokens, stop)
    everything = answered(results)
    found = [
        (row, corruption)
        for row in everything
        if (corruption := corrupted_response(*row, corrupt, seed)) is not None
    ]
    if not found:
        raise ValueError("[faithfulness] corrupt: expected a response with a step to corrupt, got none")
    rows = [row for row, _ in found]
    cuts = [cuts_after(engine, (one.spoilt, one.kept)) for _, one in found]
    continuations = continued(reader, rows, cuts, seed, "corrupted")
    changes = [[1 - share_correct(samples) for samples in row] for row in continuations]
    changed = by_problem(rows, changes)
    effects = [corrupted - control for corrupted, control in changed.values()]
    low, high = bootstrap_interval(effects, seed=seed_of(seed, "interval"))
    written = [one for row in continuations for samples in row for one in samples]
    return AnswerChanges(
        corrupted=mean([corrupted for corrupted, _ in changed.values()]),
        control=mean([control for _, control in changed.values()]),
        effect=mean(effects),
        low=low,
        high=high,
        per_problem={row: (corrupted, control) for row, (corrupted, control) in changed.items()},
        per_response=by_response(rows, changes),
        unfinished=mean([float(one.verdict is None) for one in written]),
        num_completions=len(rows),
        num_unanswered=sum(result.num_unparsed for result in results),
        num_uncorrupted=len(everything) - len(rows),
    )


def corrupt_number(text: str, random: Random) -> Corruption | None:
    """Change a number before the answer by 1 to 9, and end the prefix there.

    The number is a random result, one after "=", or any whole number if there is no result.
    """
    marker = answer_start(text)
    before = text if marker is None else text[:marker]
    spans = [match.span(1) for match in RESULT.finditer(before)]
    spans = spans or [match.span() for match in NUMBER.finditer(before)]
    if not spans:
        return None
    start, end = random.choice(spans)
    value, step = int(text[start:end]), random.randint(1, 9)
    other = value - step if value >= step and random.random() < 0.5 else value + step
    return Corruption(kept=text[:end], spoilt=f"{text[:start]}{other}")


def corrupted_response(result: ProblemResult, sample: int, corrupt: Corrupt, seed: int) -> Corruption | None:
    """Corrupt one response; the random numbers depend only on (seed, problem, sample)."""
    random = Random(seed_of(seed, "corrupt", result.problem.index, sample))
    return corrupt(result.completions[sample].text, random)


def cuts_after(engine: Engine, texts: Sequence[str]) -> list[Cut]:
    """Return cuts with these prefixes. All have the longest one's position, so that all continuations get the
    same token budget."""
    ids = [encode_inside(engine.tokenizer, text) for text in texts]
    position = max(map(len, ids))
    return [
        Cut(tau=1.0, position=position, text=text, receiver_ids=own, has_answer=False)
        for text, own in zip(texts, ids, strict=True)
    ]
