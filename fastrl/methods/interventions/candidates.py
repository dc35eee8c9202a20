"""From what the model wrote to the interventions that are kept; each candidate leaves at one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from fastrl.config import InterveneConfig
from fastrl.config.intervene import Leak
from fastrl.data.rows import Row
from fastrl.methods.interventions.continuations import Beginning
from fastrl.methods.interventions.leak import leaks
from fastrl.methods.interventions.parse import Intervention, Reject, parse_intervention
from fastrl.methods.interventions.propose import Check
from fastrl.methods.interventions.segment import Steps
from fastrl.rewards.traces import states_answer

Outcome = (
    Reject
    | Literal[
        "unchanged", "leak", "duplicate", "not_first", "open", "no_room", "no_success", "no_gain", "survived",
        "not_best", "selected",
    ]
)  # fmt: skip
LEAKS = {"anywhere": leaks, "stated": states_answer}
REJECTS = (
    "unfinished", "no_tag", "unreadable", "no_location", "out_of_range", "empty", "unchanged",
)  # fmt: skip
"""A candidate that says nothing."""


@dataclass(slots=True, kw_only=True)
class Candidate:
    """One proposal, and how far it came."""

    problem: int
    """Line of the hard set, from 0."""
    attempt: int
    sample: int
    outcome: Outcome
    """Why it went no further: a reject of the parser; unchanged (it repeats the step that it replaces); leak;
    duplicate; not_first (select first); no_room; no_success; no_gain; not_best (select best); or selected."""
    location: int | None = None
    content: str | None = None
    """With line breaks as the rollout has them."""
    success: float | None = None
    """Of continuations of prefix + intervention. None: it was not continued."""
    success_original: float | None = None
    """Of prefix + the step that it replaces."""
    success_prefix: float | None = None
    check: str
    """What the model wrote."""

    @property
    def gain(self) -> float | None:
        """success - success_original: the same prefix and number of continuations, another step."""
        if self.success is None or self.success_original is None:
            return None
        return self.success - self.success_original

    def row(self) -> Row:
        return {**asdict(self), "gain": self.gain}


def candidates_of(check: Check, leak: Leak = "anywhere") -> list[Candidate]:
    """The proposals of an attempt, read; of those that say the same, the first stays open."""
    seen: set[tuple[int, str]] = set()
    found = []
    for sample, completion in enumerate(check.completions or []):
        text, steps = completion.text, check.steps
        finished = completion.finish_reason == "stop"
        read = parse_intervention(text, len(steps)) if finished else "unfinished"
        candidate = Candidate(
            problem=check.problem.index, attempt=check.attempt, sample=sample, outcome="open", check=text
        )
        if isinstance(read, Intervention):
            candidate.location, candidate.content = read.location, steps.spaced(read.content)
            key = (read.location, plain(read.content))
            if key[1] == plain(steps[read.location - 1]):
                candidate.outcome = "unchanged"
            elif LEAKS[leak](read.content, check.problem.solution):
                candidate.outcome = "leak"
            elif key in seen:
                candidate.outcome = "duplicate"
            seen.add(key)
        else:
            candidate.outcome = read
        found.append(candidate)
    return found


def plain(text: str) -> str:
    """By which two texts are the same."""
    return " ".join(text.split())


def keep_first(candidates: Sequence[Candidate]) -> None:
    """Of an attempt's open candidates the first alone stays open."""
    for later in [each for each in candidates if each.outcome == "open"][1:]:
        later.outcome = "not_first"


@dataclass(frozen=True, slots=True)
class Arms:
    """The beginnings that a candidate is judged by."""

    intervention: str
    original: str
    prefix: str

    @classmethod
    def of(cls, steps: Steps, candidate: Candidate) -> Arms:
        location, content = candidate.location, candidate.content
        assert location is not None and content is not None, "an open candidate has both"
        return cls(steps.before(location) + content, steps.upto(location), steps.upto(location - 1))

    def asked(self, config: InterveneConfig) -> list[str]:
        """Those that the filter needs."""
        if config.filter == "none":
            return []
        return (
            [self.intervention]
            if config.filter == "success"
            else [self.intervention, self.original, self.prefix]
        )


def measure(candidate: Candidate, arms: Arms, place: int, rates: Mapping[Beginning, float]) -> None:
    """Note the success rates of a candidate's arms."""
    candidate.success = rates.get((place, arms.intervention))
    candidate.success_original = rates.get((place, arms.original))
    candidate.success_prefix = rates.get((place, arms.prefix))


def apply_filter(candidate: Candidate, config: InterveneConfig) -> None:
    """success: p(prefix + intervention) > 0. gain: and it is > p(prefix + original step)."""
    if candidate.outcome != "open":
        return
    candidate.outcome = "survived"
    if config.filter == "none":
        return
    if candidate.success is None or (config.filter == "gain" and candidate.gain is None):
        candidate.outcome = "no_room"
    elif candidate.success == 0:
        candidate.outcome = "no_success"
    elif config.filter == "gain" and candidate.gain is not None and candidate.gain <= 0:
        candidate.outcome = "no_gain"


def select_one(candidates: Sequence[Candidate], config: InterveneConfig) -> None:
    """Of an attempt's survivors the best by gain (filter success: by success), the earlier of equal ones."""
    survivors = [each for each in candidates if each.outcome == "survived"]
    if not survivors:
        return

    def worth(candidate: Candidate) -> float:
        return (candidate.gain if config.filter == "gain" else candidate.success) or 0.0

    # with select first there is one
    best = max(survivors, key=worth)
    for each in survivors:
        each.outcome = "selected" if each is best else "not_best"
