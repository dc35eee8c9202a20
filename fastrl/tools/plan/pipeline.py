"""Plans of recipes: a stage's page, or one a stage of a pipeline, with how long a step takes."""

from __future__ import annotations

from dataclasses import dataclass

from fastrl.config import (
    Config,
    CptConfig,
    PipelineConfig,
    Recipe,
    RlConfig,
    check_positive,
    get_option,
    references,
    with_option,
)
from fastrl.stages.pipeline import first_model, in_folder
from fastrl.tools.plan.planner import Device, report


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What was measured, tokens a second; None: that part is not planned."""

    sampled: float | None = None
    """Completions' tokens (num_tokens / time/rollout_s of a run's metrics.jsonl)."""
    trained: float | None = None
    """Tokens through forward, loss and backward (num_tokens / time/update_s)."""

    def __post_init__(self) -> None:
        given = [name for name in ("sampled", "trained") if getattr(self, name) is not None]
        check_positive("plan", self, *given)


def report_recipe(
    recipe: Recipe, device: Device | None, rates: Rates | None = None, ranks: int = 1
) -> tuple[bool, str]:
    """Whether everything fits, and the page that says so; of a pipeline, a page a stage.

    Args:
        device: None: what this machine has.
        ranks: processes of a run under torchrun.
    Raises: ValueError, FileNotFoundError: a model that is planned is not there.
    """
    if not isinstance(recipe, PipelineConfig):
        fits, page = report(recipe, device or Device.here(recipe), ranks)
        return fits, "\n".join([page, *time_lines(recipe, rates or Rates())])
    pages, fitting = [], True
    for name in recipe.stages:
        stage = with_models(recipe, name)
        fits, page = report(stage, device or Device.here(stage), ranks)
        fitting = fitting and fits
        pages.append("\n".join([f"{name} ({stage.stage})", page, *time_lines(stage, rates or Rates())]))
    # one after the other: the largest decides
    verdict = "every stage fits" if fitting else "not every stage fits"
    return fitting, "\n\n".join([*pages, verdict])


def with_models(recipe: PipelineConfig, name: str) -> Config:
    """The stage, with models that an earlier one trains stood for by those that they start from. Other
    things that earlier stages leave, such as files, stay as they are: no plan reads them."""
    stage = in_folder(recipe, name)
    for option, target in references(recipe):
        place, _, option = option.partition(".")
        if place == name and option.endswith(("model.path", "receiver.path", "reward_model")):
            stage = with_option(stage, option, first_model(recipe.stages, target.partition("/")[0]))
    planned: Config = stage
    return planned


def time_lines(config: Config, rates: Rates) -> list[str]:
    """How long a step takes at these rates, with completions as long as they may be.

    sampling = rollouts x rollout.max_new_tokens / sampled
    receiver = rollouts x cuts x continuations x tokens / sampled, at the policy's rate, with half of
               rollout.max_new_tokens + transfer.slack_tokens, for mode force answer_tokens, for teacher none
    update   = rollouts x rollout.max_new_tokens x passes / trained; cpt: batch_size x seq_len / trained
    """
    parts: dict[str, float] = {}
    if isinstance(config, RlConfig):
        rollouts = config.rollout.num_prompts * config.rollout.group_size
        longest, voters = (
            config.rollout.max_new_tokens,
            config.rollout.num_prompts * config.rollout.num_voters,
        )
        if rates.sampled is not None:
            parts["sampling"] = (rollouts + voters) * longest / rates.sampled
            if config.uses_transfer:
                asked = rollouts * config.transfer.num_cuts * config.transfer.num_continuations
                parts["receiver"] = asked * continued(config) / rates.sampled
        if rates.trained is not None:
            passes = config.train.epochs_per_batch
            parts["update"] = rollouts * longest * passes / rates.trained
    elif isinstance(config, CptConfig) and rates.trained is not None:
        parts["update"] = config.batch_size * config.seq_len / rates.trained
    if not parts:
        return []
    total = sum(parts.values())
    said = ", ".join(f"{name} {seconds:.3g}" for name, seconds in parts.items())
    num_steps = get_option(config, "train.num_steps")
    whole = f"; {num_steps:,} steps {total * num_steps / 3600:.3g} h"
    return [f"a step takes at most {total:.3g} s: {said}{whole}"]


def continued(config: RlConfig) -> float:
    """Tokens of one continuation, cuts lying anywhere."""
    if config.transfer.mode == "sample":
        return config.rollout.max_new_tokens / 2 + config.transfer.slack_tokens
    return config.transfer.answer_tokens if config.transfer.mode == "force" else 0.0
