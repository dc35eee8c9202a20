"""Configuration of a tiny world."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastrl.tiny.world.models import GENERATOR, HELD_OUT_RECEIVER, RECEIVER, Shape
from fastrl.tiny.world.task import ChainConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerConfig:
    """Architecture and training options of one of the world's models."""

    shape: Shape
    num_steps: int
    batch_size: int = 12
    learning_rate: float = 5e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldConfig:
    """Problems, writing styles and models of a world."""

    seed: int = 0
    chains: ChainConfig = field(default_factory=ChainConfig)
    num_train: int = 2000
    """Training problems for RL; held-out problems are another split."""
    num_test: int = 256
    style_shares: tuple[float, float, float] = (0.4, 0.2, 0.4)
    """Fractions of explicit, leap and private examples of the generator."""
    slip_rates: tuple[float, float, float] = (0.07, 0.06, 0.03)
    """Fraction of wrong steps in each style; lowest in private shorthand."""
    num_wrong_entries: int = 0
    """Number of operations, of 300, that are always wrong in the generator's examples."""
    cut_share: float = 0.1
    """Fraction of the receivers' examples that begin in the middle of a trace."""
    generator: LearnerConfig = field(default_factory=lambda: LearnerConfig(shape=GENERATOR, num_steps=1250))
    receiver: LearnerConfig = field(default_factory=lambda: LearnerConfig(shape=RECEIVER, num_steps=700))
    held_out_receiver: LearnerConfig = field(
        default_factory=lambda: LearnerConfig(shape=HELD_OUT_RECEIVER, num_steps=600)
    )
