"""Everything that InT's tiny world is made from."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastrl.config import refuse
from fastrl.tiny.world.config import LearnerConfig, WorldConfig
from fastrl.tiny.world.models import GENERATOR


def solver_world() -> WorldConfig:
    """Explicit steps alone, few slips, and operations that are wrong every time."""
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
    """Problems that meet an operation learnt wrong, and a solver that can also check an attempt.

    Of the plain world's options its receivers' are not used.
    """

    world: WorldConfig = field(default_factory=solver_world)
    task_shares: tuple[float, float, float] = (0.5, 0.35, 0.15)
    """Parts of the solver's examples that solve a problem, check an attempt, and solve a problem guided by a
    part of its reference."""
    right_share: float = 0.75
    """Part of the checks, and of the solutions guided by a whole reference, that are right."""

    def __post_init__(self) -> None:
        if not self.world.num_wrong_entries > 0:
            refuse("int", "world.num_wrong_entries", "> 0", self.world.num_wrong_entries)
