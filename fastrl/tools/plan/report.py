"""The page of a plan: a table a stage, whether it fits, and what needs less if it does not."""

from __future__ import annotations

from fastrl.config import Config, PipelineConfig, Recipe, references, with_option
from fastrl.stages.pipeline import first_model, in_folder
from fastrl.tools.plan.hints import hint, size
from fastrl.tools.plan.planner import MOMENTS, USABLE, Device, Planner, held
from fastrl.tools.plan.sharding import HOST


def recipe_page(recipe: Recipe, device: Device | None, ranks: int = 1) -> tuple[bool, str]:
    """Return whether everything fits, and the page that says so; of a pipeline, a page for each stage.

    Args:
        device: None: what this machine has.
        ranks: processes of a run under torchrun.
    Raises: ValueError, FileNotFoundError: a model that is planned is not there.
    """
    if not isinstance(recipe, PipelineConfig):
        return stage_page(recipe, device or Device.here(recipe), ranks)
    pages, fitting = [], True
    for name in recipe.stages:
        stage = with_models(recipe, name)
        fits, page = stage_page(stage, device or Device.here(stage), ranks)
        fitting = fitting and fits
        pages.append(f"{name} ({stage.stage})\n{page}")
    # one after the other: the largest decides
    verdict = "every stage fits" if fitting else "not every stage fits"
    return fitting, "\n\n".join([*pages, verdict])


def with_models(recipe: PipelineConfig, name: str) -> Config:
    """Return a stage with the models that earlier stages train replaced by those that they start from.

    Other things that earlier stages leave, such as files, stay as they are: no plan reads them.
    """
    stage = in_folder(recipe, name)
    for option, target in references(recipe):
        place, _, option = option.partition(".")
        if place == name and option.endswith(("model.path", "receiver.path", "reward_model")):
            stage = with_option(stage, option, first_model(recipe.stages, target.partition("/")[0]))
    planned: Config = stage
    return planned


def stage_page(config: Config, device: Device, ranks: int = 1) -> tuple[bool, str]:
    """Return whether the plan of one rank fits its device, and the page that says so."""
    planner = Planner(config, device, ranks)
    items, needed = planner.items(), planner.needed()
    if not items:
        return True, "no model: nothing to plan"
    lines = [f"{item.name:24s}{size(item.num_bytes):>12s}  {item.when:8s}{item.how}" for item in items]
    moment = max(MOMENTS, key=lambda each: held(items, each))
    shared = device.kind == "cpu" and ranks > 1
    of = f"of {size(device.num_bytes)}, {device.name}" + (f" that {ranks} ranks share" if shared else "")
    lines.append(f"{'at once':24s}{size(needed):>12s}  {moment:8s}{of}")
    if waiting := sum(item.num_bytes or 0 for item in items if item.when == HOST):
        lines.append(f"{'in host memory':24s}{size(waiting):>12s}  always  of every rank")
    if ranks > 1:
        lines.append(f"this is one of {ranks} ranks; engines and reward models are whole on each")
    fits = needed <= planner.usable
    if fits:
        lines.append(f"fits: {size(planner.usable - needed)} below {USABLE:.0%} of the device")
    else:
        lines += [
            f"does not fit: {size(needed - planner.usable)} above {USABLE:.0%} of the device",
            hint(planner),
        ]
    return fits, "\n".join(lines)
