"""fastrl plan RECIPE [--field value ...]: estimate a run's memory and check that it fits."""

from __future__ import annotations

from fastrl.cli.arguments import asks_help, take_number, take_positional
from fastrl.config.load import load_config

USAGE = "fastrl plan RECIPE [--gpu_gib N] [--nproc N]"
REMOVED = ("--sampled_per_s", "--trained_per_s")


def main(arguments: list[str]) -> int:
    """Print the plan; return 0 if it fits, 1 if it does not."""
    refuse_removed(arguments)
    gpu_gib = take_number(arguments, "plan", "--gpu_gib")
    ranks = take_number(arguments, "plan", "--nproc")
    recipe = None if asks_help(arguments[:1]) else take_positional(arguments, "plan", "RECIPE")
    config = load_config(recipe, arguments, USAGE)
    from fastrl.tools.plan.planner import Device  # torch: not needed for --help
    from fastrl.tools.plan.report import recipe_page

    if ranks is not None and not ranks.is_integer():
        raise ValueError(f"[plan] nproc: expected a whole number, got {ranks}")
    device = None if gpu_gib is None else Device.gpu(gpu_gib)
    fits, text = recipe_page(config, device, 1 if ranks is None else int(ranks))
    print(text)
    return 0 if fits else 1


def refuse_removed(arguments: list[str]) -> None:
    """Raise ValueError for a removed flag of plan."""
    for flag in REMOVED:
        if any(word.partition("=")[0].replace("-", "_") == flag.replace("-", "_") for word in arguments):
            raise ValueError(
                f"[plan] {flag[2:]}: expected memory options only, since plan no longer estimates times; "
                "fastrl train RECIPE --train.num_steps 3 measures a step: time/rollout_s and time/update_s "
                "in the run's metrics.jsonl"
            )
