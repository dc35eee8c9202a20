"""Configuration of TraceLift's tiny world, on top of the plain world."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastrl.tiny.world.config import WorldConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class LessonConfig:
    """Training options of a model that starts from another one's weights."""

    num_steps: int
    batch_size: int = 16
    learning_rate: float = 3e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class LiftConfig:
    """Problems of two tasks, judged traces, a planner and two executors.

    The planner writes in the generator's styles with its slips: world.style_shares, world.slip_rates.
    """

    world: WorldConfig = field(default_factory=WorldConfig)
    num_seeds: int = 1500
    """Problems with judged traces, per task."""
    num_perturbed: int = 7
    """Perturbed traces per such problem, all of different kinds."""
    num_tests: int = 2
    """Tests per program."""
    code_share: float = 0.35
    """Fraction of the planner's and the executors' examples that ask for a program."""
    executor_shares: tuple[float, float, float, float, float] = (0.2, 0.35, 0.2, 0.2, 0.05)
    """Fractions of the executors' examples: no trace, explicit, leaps, the last one or two steps missing, one
    step contradicting the problem. The answer is always the problem's."""
    planner: LessonConfig = field(default_factory=lambda: LessonConfig(num_steps=250))
    executor: LessonConfig = field(default_factory=lambda: LessonConfig(num_steps=700))
    held_out_executor: LessonConfig = field(default_factory=lambda: LessonConfig(num_steps=700))
