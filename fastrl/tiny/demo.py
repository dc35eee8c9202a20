"""The demo: trains a generator with RLTR in the tiny world, on a laptop.

It makes the world (a generator, the receiver of its training and a held-out receiver), evaluates the
generator, trains it with the recipe rltr-tiny like any other checkpoint, and evaluates it again.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from fastrl.config import EvalConfig, ModelConfig, PromptedConfig, RlConfig, check_positive
from fastrl.config.load import load_config
from fastrl.report.plot import plot_run, text_curves
from fastrl.tiny.lessons import shown_lessons
from fastrl.tiny.world.assess import assess, table
from fastrl.tiny.world.config import WorldConfig
from fastrl.tiny.world.make import World, build_world
from fastrl.train import run_stage

ROWS = (
    ("accuracy", "avg@4"),
    ("majority of 4", "maj@4"),
    ("transfer, training receiver", "transfer/receiver"),
    ("transfer, held-out receiver", "transfer/held_out_receiver"),
    ("private shorthand", "style/private"),
    ("leaps", "style/leap"),
    ("right steps", "step_accuracy"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """Train with RLTR in the tiny world and compare before and after."""

    dir: str = "runs/demo"
    """Run folder; a stopped demo resumes there."""
    recipe: str = "rltr-tiny"
    steps: int = 30
    seed: int = 0

    def __post_init__(self) -> None:
        check_positive("demo", self, "steps")


def run_demo(options: DemoOptions, world_config: WorldConfig | None = None) -> None:
    """Make the world, evaluate the generator, train it, evaluate it again, and print both results.

    Args:
        world_config: the world; None: the default.
    """
    recipe = rl_recipe(options.recipe)
    disable_progress_bar()  # type: ignore[no-untyped-call]
    start = time.perf_counter()
    print("making the tiny world (kept for the next time) ...", flush=True)
    with shown_lessons():
        world = build_world(world_config)
    print(f"  {time.perf_counter() - start:.0f} s\nbefore ...", flush=True)
    before = assess(world.generator, world)
    config = demo_config(recipe, world, options)
    final = run_stage(config)
    after = assess(final, world)
    results = {"before": before, "after": after, "seconds": time.perf_counter() - start}
    (Path(options.dir) / "demo.json").write_text(json.dumps(results, indent=2) + "\n")
    picture = plot_run([options.dir])
    print(text_curves([options.dir]))
    print(table({"before": before, f"after {options.steps} steps": after}, ROWS))
    print(f"[low, high]: 95 % interval over problems. Curves: {picture}. {results['seconds']:.0f} s in all.")


def rl_recipe(name: str) -> RlConfig:
    config = load_config(name)
    if not isinstance(config, RlConfig):
        raise ValueError(f"[demo] recipe: expected one of the rl stage, got {name!r}")
    return config


def demo_config(recipe: RlConfig, world: World, options: DemoOptions) -> RlConfig:
    """Return the recipe with the world's paths."""
    return replace(
        recipe,
        run=replace(recipe.run, dir=options.dir, seed=options.seed, device="cpu"),
        model=ModelConfig(path=str(world.generator)),
        data=replace(recipe.data, path=str(world.train)),
        transfer=replace(recipe.transfer, receiver=PromptedConfig(path=str(world.receiver))),
        train=replace(recipe.train, num_steps=options.steps),
        eval=EvalConfig(),
    )
