"""The main claims of four papers, each with its measurement and decision rule.

The rules were fixed before the measurements. A claim is an effect E of two numbers of the same seed, with a
95 % t-interval [low, high] over seeds:

    holds           low > above
    does not hold   otherwise, if high < below
    undecided       otherwise, or with fewer than two seeds

`above` is 0 for a difference and 1 for a ratio. `below` is the smallest effect that would support the claim.
The number of claims is not corrected for, and the t-interval assumes normally distributed effects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fastrl.report.intervals import Interval, t_interval

Verdict = Literal["holds", "does not hold", "undecided"]
StudyName = Literal["rltr", "tracelift", "int", "weak"]
Place = tuple[str, ...]
"""Keys of a number in a study's nested results."""
SAMPLES, VOTES = "avg@{samples}", "maj@{samples}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """E = first - second, or first / second for a ratio; values above 0, or 1, support the claim."""

    name: str
    study: StudyName
    text: str
    paper: str
    """The paper's figures, or "no figures known"."""
    first: Place
    second: Place
    ratio: bool = False
    above: float = 0.0
    below: float = 0.02

    def found(self, numbers: Mapping[str, Any], samples: int) -> tuple[float, float]:
        """Return both numbers of a seed; `samples` replaces {samples} in the keys."""
        return number(numbers, self.first, samples), number(numbers, self.second, samples)

    def effect(self, pair: tuple[float, float]) -> float:
        return pair[0] / pair[1] if self.ratio else pair[0] - pair[1]

    def verdict(self, interval: Interval) -> Verdict:
        if interval.low is None or interval.high is None:
            return "undecided"
        if interval.low > self.above:
            return "holds"
        return "does not hold" if interval.high < self.below else "undecided"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A claim with its measurements."""

    claim: Claim
    pairs: Sequence[tuple[float, float]]
    """(first, second) of each seed."""

    @property
    def interval(self) -> Interval | None:
        """The effect's interval; None if no seed is finished."""
        return t_interval([self.claim.effect(pair) for pair in self.pairs]) if self.pairs else None

    @property
    def verdict(self) -> Verdict:
        return "undecided" if self.interval is None else self.claim.verdict(self.interval)


def number(numbers: Mapping[str, Any], place: Place, samples: int) -> float:
    found: Any = numbers
    for key in place:
        found = found[key.format(samples=samples)]
    return float(found)


CLAIMS = (
    Claim(
        name="rltr/transfer", study="rltr",
        text="From cut traces a frozen receiver reaches the answer more often after RLTR than after RLVR",
        paper="falls under RLVR, rises under RLTR (no figures known)",
        first=("rltr", "transfer/receiver"), second=("rlvr", "transfer/receiver"),
    ),
    Claim(
        name="rltr/held_out", study="rltr",
        text="So does a receiver that RLTR was not trained with",
        paper="no figures known",
        first=("rltr", "transfer/held_out_receiver"), second=("rlvr", "transfer/held_out_receiver"),
    ),
    Claim(
        name="rltr/majority", study="rltr",
        text="The majority of RLTR's answers is right more often than that of RLVR's",
        paper="Maj@64 on MATH-500: 84.2, 3.6 above RLVR (so 80.6)",
        first=("rltr", VOTES), second=("rlvr", VOTES),
    ),
    Claim(
        name="rltr/steps", study="rltr",
        text="RLTR needs fewer steps to RLVR's final training accuracy (RLVR's / RLTR's)",
        paper="about 2.5 times fewer, MATH-500",
        first=("steps_counted", "rlvr"), second=("steps_counted", "rltr"),
        ratio=True, above=1.0, below=1.1,
    ),
    Claim(
        name="tracelift/product", study="tracelift",
        text="Rubric score x uplift ends with a more accurate executor than execution alone",
        paper="better in math and code (no figures known)",
        first=("product", "two_stage/executor"), second=("execution", "two_stage/executor"),
    ),
    Claim(
        name="tracelift/start", study="tracelift",
        text="Rubric score x uplift raises the executor's accuracy over the planner's start",
        paper="no figures known",
        first=("product", "two_stage/executor"), second=("before", "two_stage/executor"),
    ),
    Claim(
        name="int/intervention", study="int",
        text="Prefix + the model's own intervention leads to the answer more often than prefix + wrong step",
        paper="1.56 % against 0.07 % of continuations",
        first=("funnel", "efficacy", "prefix + intervention", "mean_success"),
        second=("funnel", "efficacy", "prefix + original step", "mean_success"),
    ),
    Claim(
        name="int/rl", study="int",
        text="Interventions, SFT, then RL beat RL alone on held-out hard problems, at equal sampled tokens",
        paper="25.6 against 23.5, IMO-AnswerBench",
        first=("arms", "int", "after", SAMPLES), second=("arms", "rl", "after", SAMPLES),
    ),
    Claim(
        name="int/reference", study="int",
        text="They beat SFT on reference solutions, then RL",
        paper="25.6 against 11.6, IMO-AnswerBench",
        first=("arms", "int", "after", SAMPLES), second=("arms", "reference", "after", SAMPLES),
    ),
    Claim(
        name="weak/faithful", study="weak",
        text="From 8 problems, RL gains more on held-out ones if traces are faithful than if they are not",
        paper="+29.7 (Qwen2.5-Math-1.5B) against +10.8 (Llama-3.2-3B) until saturation, MATH-500",
        first=("explicit", "scarce", "test/gain"), second=("guessed", "scarce", "test/gain"),
    ),
    Claim(
        name="weak/rescue", study="weak",
        text="SFT on explicit reasoning lets the unfaithful model gain more by RL from 8 problems",
        paper="substantial gains after SFT with thoughts only (curves only)",
        first=("rescued", "scarce", "test/gain"), second=("guessed", "scarce", "test/gain"),
    ),
    Claim(
        name="weak/certainty", study="weak",
        text="Rewarded by its own certainty, the model ends below its start (start, end)",
        paper="collapses in every setting (Qwen2.5-Math after about 200 steps)",
        first=("explicit", "before", "test"), second=("explicit", "selfcertainty", "test/final"),
    ),
    Claim(
        name="weak/noise", study="weak",
        text="With 3 of 10 labels wrong, RL ends less than 0.05 below RL on right labels",
        paper="30 % wrong: harmless almost everywhere",
        first=("explicit", "noise=0.3", "test/final"), second=("explicit", "noise=0", "test/final"),
        above=-0.05, below=-0.05,
    ),
)  # fmt: skip
