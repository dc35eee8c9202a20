"""Configuration of InT's tiny world."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastrl.config import refuse
from fastrl.tiny.world.config import LearnerConfig, WorldConfig
from fastrl.tiny.world.models import GENERATOR


def solver_world() -> WorldConfig:
    """Return the plain world of the solver: only explicit steps, few slips, some operations always wrong."""
    return WorldConfig(
        num_train=320,
        num_test=128,
        style_shares=(1.0, 0.0, 0.0),
        slip_rates=(0.03, 0.0, 0.0),
        num_wrong_entries=18,
        generator=LearnerConfig(shape=GENERATOR, num_steps=1250),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class IntConfig:
    """Problems with operations that the solver learnt wrong, and a solver that can also check attempts.

    The plain world's receiver options are not used.
    """

    world: WorldConfig = field(default_factory=solver_world)
    task_shares: tuple[float, float, float] = (0.5, 0.35, 0.15)
    """Fractions of the solver's examples: solve a problem, check an attempt, solve guided by a reference."""
    right_share: float = 0.75
    """Fraction of correct examples among checks, and among solutions guided by a whole reference."""

    def __post_init__(self) -> None:
        if not self.world.num_wrong_entries > 0:
            refuse("int", "world.num_wrong_entries", "> 0", self.world.num_wrong_entries)
