"""Everything that the tiny world of weak supervision is made from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from fastrl.config import refuse
from fastrl.tiny.world.config import LearnerConfig, WorldConfig
from fastrl.tiny.world.models import GENERATOR
from fastrl.tiny.world.task import ChainConfig

WeakStyle = Literal["explicit", "leap", "private", "coded", "guessed"]
WEAK_STYLES: tuple[WeakStyle, ...] = ("explicit", "leap", "private", "coded", "guessed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """How a generator was taught to write before RL."""

    shares: tuple[float, float, float, float, float]
    """Parts of its examples that are explicit, leaps, private, coded and guessed."""
    slip_rates: tuple[float, float, float, float] = (0.12, 0.12, 0.12, 0.12)
    """Share of the written steps that are wrong in each style but the last, where all are arbitrary."""


MIXES = {
    "explicit": Mix(shares=(1.0, 0.0, 0.0, 0.0, 0.0)),
    "mixed": Mix(shares=(0.4, 0.2, 0.4, 0.0, 0.0)),
    "private": Mix(shares=(0.1, 0.0, 0.9, 0.0, 0.0)),
    "half_coded": Mix(shares=(0.0, 0.0, 0.5, 0.5, 0.0)),
    "coded": Mix(shares=(0.0, 0.0, 0.0, 1.0, 0.0)),
    "guessed": Mix(shares=(0.0, 0.0, 0.5, 0.0, 0.5), slip_rates=(0.0, 0.0, 0.02, 0.0)),
}
"""From faithful to unfaithful: steps that are what is computed, in digits or in private; steps that say other
values than those that the answer comes from; steps that the answer does not come from at all. Two styles of a
mix never look alike in the middle of a trace, so no step has two ways to go on. Where half of the answers are
guessed the others hardly slip, so that accuracies before RL are comparable."""


def weak_world() -> WorldConfig:
    """Generators are taught on chains of 3 to 7 operations."""
    return WorldConfig(
        chains=ChainConfig(max_operations=7),
        num_train=512,
        num_test=128,
        generator=LearnerConfig(shape=GENERATOR, num_steps=1250),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class WeakConfig:
    """Problems, longer problems, raw text, worked traces, and one generator for each mix.

    Of the plain world's options style_shares, slip_rates, num_wrong_entries and its receivers' are not used.
    """

    mix: str = "explicit"
    """A name in MIXES."""
    world: WorldConfig = field(default_factory=weak_world)
    mix_steps: int = 800
    """The explicit generator is taught from nothing; all others go on from it, for so many steps of SFT. So
    they can do the same, and differ in what they write."""
    mix_learning_rate: float = 3e-3
    problems: ChainConfig = field(default_factory=lambda: ChainConfig(max_operations=5))
    """To do RL on, and to test on."""
    long: ChainConfig = field(default_factory=lambda: ChainConfig(min_operations=6, max_operations=7))
    """Out of distribution: chains with more operations than any that RL sees."""
    num_texts: int = 2000
    """Documents of raw text for continual pre-training."""
    lines_per_text: int = 12
    num_traces: int = 3000
    """Worked problems for SFT, explicit and right, thought between <think> and </think>."""

    def __post_init__(self) -> None:
        if self.mix not in MIXES:
            refuse("weak", "mix", f"one of {', '.join(MIXES)}", self.mix)
        if self.long.min_operations <= self.problems.max_operations:
            expected = f"> {self.problems.max_operations}, the most operations of a problem"
            refuse("weak", "long.min_operations", expected, self.long.min_operations)
