"""Configuration of the tiny world of weak supervision."""

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
    """Mix of styles in a generator's training examples before RL."""

    shares: tuple[float, float, float, float, float]
    """Fractions of explicit, leap, private, coded and guessed examples."""
    slip_rates: tuple[float, float, float, float] = (0.12, 0.12, 0.12, 0.12)
    """Fraction of wrong steps in each style except guessed, where all are random."""


MIXES = {
    "explicit": Mix(shares=(1.0, 0.0, 0.0, 0.0, 0.0)),
    "mixed": Mix(shares=(0.4, 0.2, 0.4, 0.0, 0.0)),
    "private": Mix(shares=(0.1, 0.0, 0.9, 0.0, 0.0)),
    "half_coded": Mix(shares=(0.0, 0.0, 0.5, 0.5, 0.0)),
    "coded": Mix(shares=(0.0, 0.0, 0.0, 1.0, 0.0)),
    "guessed": Mix(shares=(0.0, 0.0, 0.5, 0.0, 0.5), slip_rates=(0.0, 0.0, 0.02, 0.0)),
}
"""Ordered from faithful to unfaithful: steps that are the computation, in digits or privately; steps that
state other values than the computed ones; steps that don't lead to the answer. The styles of a mix are
distinguishable in the middle of a trace, so every step has one continuation. If half of the answers are
guessed, the others hardly slip, so that accuracies before RL are comparable."""


def weak_world() -> WorldConfig:
    """Return the plain world of the generators: chains of 3 to 7 operations."""
    return WorldConfig(
        chains=ChainConfig(max_operations=7),
        num_train=512,
        num_test=128,
        generator=LearnerConfig(shape=GENERATOR, num_steps=1250),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class WeakConfig:
    """Problems, longer problems, raw text, worked traces, and one generator per mix.

    The plain world's style_shares, slip_rates, num_wrong_entries and receivers are not used.
    """

    mix: str = "explicit"
    """A name in MIXES."""
    world: WorldConfig = field(default_factory=weak_world)
    mix_steps: int = 800
    """SFT steps of generators other than the explicit one, which all start from it: they have the same skills
    and differ only in what they write."""
    mix_learning_rate: float = 3e-3
    problems: ChainConfig = field(default_factory=lambda: ChainConfig(max_operations=5))
    """Problems for RL and tests."""
    long: ChainConfig = field(default_factory=lambda: ChainConfig(min_operations=6, max_operations=7))
    """Out-of-distribution problems, with more operations than those of RL."""
    num_texts: int = 2000
    """Documents of raw text for continual pre-training."""
    lines_per_text: int = 12
    num_traces: int = 3000
    """Worked problems for SFT: explicit, right steps between <think> and </think>."""

    def __post_init__(self) -> None:
        if self.mix not in MIXES:
            refuse("weak", "mix", f"one of {', '.join(MIXES)}", self.mix)
        if self.long.min_operations <= self.problems.max_operations:
            expected = f"> {self.problems.max_operations}, the most operations of a problem"
            refuse("weak", "long.min_operations", expected, self.long.min_operations)
