"""fastrl plan RECIPE [--field value ...]: what a run will hold in memory, and whether it fits."""

from __future__ import annotations

from fastrl.cli.arguments import asks_help, take_number, take_positional
from fastrl.config.load import load_config


def main(arguments: list[str]) -> int:
    """Print the plan; return 0 if it fits, 1 if it does not."""
    gpu_gib = take_number(arguments, "plan", "--gpu_gib")
    sampled = take_number(arguments, "plan", "--sampled_per_s")
    trained = take_number(arguments, "plan", "--trained_per_s")
    ranks = take_number(arguments, "plan", "--nproc")
    recipe = None if asks_help(arguments[:1]) else take_positional(arguments, "plan", "RECIPE")
    config = load_config(recipe, arguments)
    from fastrl.tools.plan.pipeline import Rates, report_recipe  # torch: not needed for --help
    from fastrl.tools.plan.planner import Device

    if ranks is not None and not ranks.is_integer():
        raise ValueError(f"[plan] nproc: expected a whole number, got {ranks}")
    device = None if gpu_gib is None else Device.gpu(gpu_gib)
    rates = Rates(sampled=sampled, trained=trained)
    fits, text = report_recipe(config, device, rates, 1 if ranks is None else int(ranks))
    print(text)
    return 0 if fits else 1
