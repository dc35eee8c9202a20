"""Everything that a tiny world is made from."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastrl.tiny.world.models import GENERATOR, HELD_OUT_RECEIVER, RECEIVER, Shape
from fastrl.tiny.world.task import ChainConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerConfig:
    """How one of the world's models is made."""

    shape: Shape
    num_steps: int
    batch_size: int = 12
    learning_rate: float = 5e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldConfig:
    """Problems, habits and models of a world."""

    seed: int = 0
    chains: ChainConfig = field(default_factory=ChainConfig)
    num_train: int = 2000
    """Problems to do RL on; held-out ones are another split."""
    num_test: int = 256
    style_shares: tuple[float, float, float] = (0.4, 0.2, 0.4)
    """Parts of the generator's examples that are explicit, leaps and private."""
    slip_rates: tuple[float, float, float] = (0.07, 0.06, 0.03)
    """Share of the written steps that are wrong in each style: it is surest in its own shorthand."""
    num_wrong_entries: int = 0
    """Operations, of 300, that the generator's examples get wrong every time."""
    cut_share: float = 0.1
    """Share of the receivers' examples that begin in the middle of a trace."""
    generator: LearnerConfig = field(default_factory=lambda: LearnerConfig(shape=GENERATOR, num_steps=1250))
    receiver: LearnerConfig = field(default_factory=lambda: LearnerConfig(shape=RECEIVER, num_steps=700))
    held_out_receiver: LearnerConfig = field(
        default_factory=lambda: LearnerConfig(shape=HELD_OUT_RECEIVER, num_steps=600)
    )
