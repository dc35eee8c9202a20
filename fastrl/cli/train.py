"""fastrl train RECIPE [--field value ...]: run a stage or pipeline; with --dry-run, print what would run."""

from __future__ import annotations

import os
import sys

from fastrl.cli.arguments import asks_help, take_flag, take_positional
from fastrl.config import PipelineConfig, Recipe, RlConfig, derived
from fastrl.config.files import check_files
from fastrl.config.load import load_config, to_yaml


def main(arguments: list[str]) -> int:
    """Run the recipe and print the resulting folder."""
    dry_run = take_flag(arguments, "--dry-run") or take_flag(arguments, "--dry_run")
    recipe = None if asks_help(arguments[:1]) else take_positional(arguments, "train", "RECIPE")
    config = load_config(recipe, arguments)
    check_files(config, recipe or "RECIPE")
    # as python -m does, so that rewards given as dotted paths can be modules of the working directory
    sys.path.append(os.getcwd())
    if dry_run:
        print(describe(config))
        return 0
    from fastrl.train import run_and_leave  # imports torch, which --help doesn't need

    print(run_and_leave(config))
    return 0


def describe(config: Recipe) -> str:
    """Check a recipe; return the resolved configuration as YAML with derived sizes as comments."""
    from fastrl.check import check_config
    from fastrl.stages.pipeline import check_pipeline

    text = to_yaml(config)
    if isinstance(config, PipelineConfig):
        check_pipeline(config, check_config)
        return text
    check_config(config)
    if not isinstance(config, RlConfig):
        return text
    return text + "\n" + "\n".join(f"# {note}".rstrip() for note in rl_notes(config))


def rl_notes(config: RlConfig) -> list[str]:
    """Return lines with the step's sizes, the first prompt and, with uplift, the executor's prompt."""
    from fastrl.check import load_tokenizer
    from fastrl.check.executor import executor_text
    from fastrl.data import load_problems, render_prompt, render_prompt_text

    problems = load_problems(config.data)
    tokenizer = load_tokenizer("model", config.model, config.data)
    first = problems[0].messages
    sizes = derived(config)
    numbers = sizes | {
        "problems": len(problems),
        "rollout_tokens_per_step_at_most": sizes["rollouts_per_step"] * config.rollout.max_new_tokens,
    }
    notes = [f"{name}: {value}" for name, value in numbers.items()]
    notes.append(
        f"first prompt, {len(render_prompt(tokenizer, first))} tokens, gold answer {problems[0].solution!r}:"
    )
    notes += [f"  {line}" for line in render_prompt_text(tokenizer, first).splitlines()]
    if config.uses_uplift:
        read = executor_text(config.uplift.executor, problems[0])
        notes += ["the executor reads:", *(f"  {line}" for line in read.splitlines())]
    return notes
