"""The text of a plan: a table per stage, the verdict, and options that reduce memory if it does not fit."""

from __future__ import annotations

from fastrl.config import Config, PipelineConfig, Recipe, references, with_option
from fastrl.stages.pipeline import first_model, in_folder
from fastrl.tools.plan.hints import hint, size
from fastrl.tools.plan.planner import PHASES, USABLE, Device, Planner, held
from fastrl.tools.plan.sharding import HOST


def recipe_page(recipe: Recipe, device: Device | None, ranks: int = 1) -> tuple[bool, str]:
    """Return True if everything fits, and the plan's text; for a pipeline, one plan per stage.

    Args:
        device: None: this machine's.
        ranks: processes of a run under torchrun.
    Raises: ValueError, FileNotFoundError: a model does not exist.
    """
    if not isinstance(recipe, PipelineConfig):
        return stage_page(recipe, device or Device.here(recipe), ranks)
    pages, fitting = [], True
    for name in recipe.stages:
        stage = with_models(recipe, name)
        fits, page = stage_page(stage, device or Device.here(stage), ranks)
        fitting = fitting and fits
        pages.append(f"{name} ({stage.stage})\n{page}")
    # stages run one after another, so each must fit on its own
    verdict = "every stage fits" if fitting else "not every stage fits"
    return fitting, "\n\n".join([*pages, verdict])


def with_models(recipe: PipelineConfig, name: str) -> Config:
    """Return a stage with models of earlier stages replaced by their initial models.

    References to files of earlier stages stay unresolved: plans don't read them.
    """
    stage = in_folder(recipe, name)
    for option, target in references(recipe):
        place, _, option = option.partition(".")
        if place == name and option.endswith(("model.path", "receiver.path", "reward_model")):
            stage = with_option(stage, option, first_model(recipe.stages, target.partition("/")[0]))
    planned: Config = stage
    return planned


def stage_page(config: Config, device: Device, ranks: int = 1) -> tuple[bool, str]:
    """Return True if one rank's plan fits its device, and the plan's text."""
    planner = Planner(config, device, ranks)
    items, needed = planner.items(), planner.needed()
    if not items:
        return True, "no model: nothing to plan"
    lines = [f"{item.name:24s}{size(item.num_bytes):>12s}  {item.when:8s}{item.how}" for item in items]
    phase = max(PHASES, key=lambda name: held(items, name))
    shared = device.kind == "cpu" and ranks > 1
    of = f"of {size(device.num_bytes)}, {device.name}" + (f" that {ranks} ranks share" if shared else "")
    lines.append(f"{'peak':24s}{size(needed):>12s}  {phase:8s}{of}")
    if waiting := sum(item.num_bytes or 0 for item in items if item.when == HOST):
        lines.append(f"{'in host memory':24s}{size(waiting):>12s}  always  per rank")
    if ranks > 1:
        lines.append(f"for one of {ranks} ranks; each holds whole engines and reward models")
    fits = needed <= planner.usable
    if fits:
        lines.append(f"fits: {size(planner.usable - needed)} below {USABLE:.0%} of the device")
    else:
        lines += [
            f"does not fit: {size(needed - planner.usable)} above {USABLE:.0%} of the device",
            hint(planner),
        ]
    return fits, "\n".join(lines)
