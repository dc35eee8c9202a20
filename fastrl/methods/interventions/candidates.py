"""Parse the model's proposals, filter them by success rates and select one intervention per attempt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from fastrl.config import InterveneConfig
from fastrl.config.intervene import Leak
from fastrl.data.rows import Row
from fastrl.methods.interventions.continuations import PlacedPrefix
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
"""Outcomes of a proposal that yields no usable intervention."""


@dataclass(slots=True, kw_only=True)
class Candidate:
    """One proposal and the filter that dropped or selected it."""

    problem: int
    """Row of the hard set, from 0."""
    attempt: int
    sample: int
    outcome: Outcome
    """The filter that dropped it: a reject of the parser; unchanged (it repeats the step that it replaces);
    leak; duplicate; not_first (select first); no_room; no_success; no_gain; not_best (select best). Or
    selected. open and survived occur only while filtering."""
    location: int | None = None
    content: str | None = None
    """The new step, with line breaks as the rollout has them."""
    success: float | None = None
    """Success rate of continuations of prefix + intervention. None: not measured."""
    success_original: float | None = None
    """Success rate of continuations of prefix + original step."""
    success_prefix: float | None = None
    """Success rate of continuations of the prefix."""
    check: str
    """The model's reply."""

    @property
    def gain(self) -> float | None:
        """success - success_original; None if either was not measured."""
        if self.success is None or self.success_original is None:
            return None
        return self.success - self.success_original

    def row(self) -> Row:
        """Return the JSON row of the candidate."""
        return {**asdict(self), "gain": self.gain}


def candidates_of(check: Check, leak: Leak = "anywhere") -> list[Candidate]:
    """Parse an attempt's proposals; among equal ones only the first stays open."""
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
    """Return the text with runs of whitespace as single spaces, for comparison."""
    return " ".join(text.split())


def keep_first(candidates: Sequence[Candidate]) -> None:
    """Mark all but the first of an attempt's open candidates not_first."""
    for later in [candidate for candidate in candidates if candidate.outcome == "open"][1:]:
        later.outcome = "not_first"


@dataclass(frozen=True, slots=True)
class Arms:
    """The answer prefixes whose success rates judge a candidate."""

    intervention: str
    original: str
    prefix: str

    @classmethod
    def of(cls, steps: Steps, candidate: Candidate) -> Arms:
        location, content = candidate.location, candidate.content
        assert location is not None and content is not None, "an open candidate has both"
        return cls(steps.before(location) + content, steps.upto(location), steps.upto(location - 1))

    def needed(self, config: InterveneConfig) -> list[str]:
        """Return the prefixes that the configured filter measures."""
        if config.filter == "none":
            return []
        return (
            [self.intervention]
            if config.filter == "success"
            else [self.intervention, self.original, self.prefix]
        )


def measure(candidate: Candidate, arms: Arms, place: int, rates: Mapping[PlacedPrefix, float]) -> None:
    """Store the success rates of a candidate's arms; place is its problem's index in the chunk."""
    candidate.success = rates.get((place, arms.intervention))
    candidate.success_original = rates.get((place, arms.original))
    candidate.success_prefix = rates.get((place, arms.prefix))


def apply_filter(candidate: Candidate, config: InterveneConfig) -> None:
    """Mark an open candidate survived, or with the reason why it fails.

    Filter success needs p(prefix + intervention) > 0; gain also needs it to exceed p(prefix + original step).
    """
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
    """Select an attempt's first survivor with the highest gain (filter success: success rate)."""
    survivors = [other for other in candidates if other.outcome == "survived"]
    if not survivors:
        return

    def worth(candidate: Candidate) -> float:
        return (candidate.gain if config.filter == "gain" else candidate.success) or 0.0

    # keep_first leaves a single survivor
    best = max(survivors, key=worth)
    for survivor in survivors:
        survivor.outcome = "selected" if survivor is best else "not_best"
