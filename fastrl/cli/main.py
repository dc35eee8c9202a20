"""The command line: fastrl COMMAND ...; fastrl --help lists the commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fastrl.config import PipelineConfig, Recipe, RlConfig, derived
from fastrl.runtime.errors import exit_code

USAGE = """\
usage: fastrl COMMAND ...

  demo                              train in the tiny world and compare before with after
  tiny [--dir FOLDER]               make the tiny world that the *-tiny recipes train in
      --tracelift true              with a planner, executors and judged traces for tracelift-*-tiny
      --int true                    with hard problems and a solver that checks attempts for int-tiny
      --weak true                   with generators from faithful to unfaithful for weak-*-tiny
  plan RECIPE [--field value ...]   what the run will hold in memory, and what to change where it does not fit
      --gpu_gib N                   on a GPU of N GiB, in place of this machine; --nproc N: of N ranks
      --sampled_per_s N             with measured tokens a second, how long a step takes; --trained_per_s N
  train RECIPE [--field value ...]  run a stage; RECIPE is a .yaml file or one of: {recipes}
      --dry-run                     check, and show what would run; no model is loaded
      --help                        the options that people turn, with the recipe's values; --help all: all
  sweep RECIPE --dir FOLDER ...     train every combination of --vary FIELD VALUE ... with all --seeds N ...,
                                    then one table and one plot; sweep --help tells more
  reproduce [--dir FOLDER]          the headline claims of four papers in the tiny world, in one table
  eval CHECKPOINT --data.path FILE  avg@k, maj@k, pass@k; transferability with --receiver PATH
      --faithfulness.enabled true   do answers follow from what is written; how many ways lead to them
      --executor.model.path PATH    of a planner: the executor's accuracy with its traces, and alone
  groups build --data.path FILE     traces of the same problem, one good and several flawed, judged
  plot RUN [RUN ...] [--out PNG]    curves of run folders
  compare RUN REFERENCE [RUN ...]   does a run go as it should: in the bands of a reference, or of other
                                    runs; bit for bit as another of its seed
  report RUN [--out HTML]           a run or pipeline on one page: curves, time, completions, configuration
  doctor [MODEL] [--engine.kind K]  what works on this machine; of a model, whether engine and trainer agree

Several devices: torchrun --nproc-per-node N -m fastrl.train RECIPE [--field value ...]"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code. 2: the request can't be carried out, for the reason on stderr."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        from fastrl.config.load import recipe_names

        print(USAGE.format(recipes=", ".join(recipe_names())))
        return 0 if arguments else 2
    command = COMMANDS.get(arguments[0])
    if command is None:
        print(
            f"[fastrl] command: expected one of {', '.join(COMMANDS)}, got {arguments[0]!r}", file=sys.stderr
        )
        return 2
    return exit_code(partial(command, arguments[1:]))


def train(arguments: list[str]) -> int:
    from fastrl.config.load import load_config

    dry_run = take_flag(arguments, "--dry-run") or take_flag(arguments, "--dry_run")
    asks_help = any(flag in arguments[:1] for flag in ("-h", "--help"))
    config = load_config(None if asks_help else take_positional(arguments, "train", "RECIPE"), arguments)
    # Rewards named by a dotted path may lie in the working directory, as they may under python -m.
    sys.path.append(os.getcwd())
    if dry_run:
        print(describe(config))
        return 0
    from fastrl.train import run_recipe

    print(run_recipe(config))
    return 0


def plan(arguments: list[str]) -> int:
    """0: it fits. 1: it does not."""
    from fastrl.config.load import load_config
    from fastrl.tools.plan.pipeline import Rates, report_recipe
    from fastrl.tools.plan.planner import Device

    gpu_gib = take_number(arguments, "plan", "--gpu_gib")
    sampled = take_number(arguments, "plan", "--sampled_per_s")
    trained = take_number(arguments, "plan", "--trained_per_s")
    ranks = take_number(arguments, "plan", "--nproc")
    asks_help = any(flag in arguments[:1] for flag in ("-h", "--help"))
    config = load_config(None if asks_help else take_positional(arguments, "plan", "RECIPE"), arguments)
    device = None if gpu_gib is None else Device.gpu(gpu_gib)
    rates = Rates(sampled=sampled, trained=trained)
    if ranks is not None and not ranks.is_integer():
        raise ValueError(f"[plan] nproc: expected a whole number, got {ranks}")
    fits, text = report_recipe(config, device, rates, 1 if ranks is None else int(ranks))
    print(text)
    return 0 if fits else 1


def describe(config: Recipe) -> str:
    """What --dry-run prints: the resolved configuration as YAML; as comments, what follows from it."""
    from fastrl.check import check_config, load_tokenizer
    from fastrl.check.executor import executor_text
    from fastrl.config.load import to_yaml
    from fastrl.data import load_problems, render_prompt, render_prompt_text
    from fastrl.stages.pipeline import check_pipeline

    text = to_yaml(config)
    if isinstance(config, PipelineConfig):
        check_pipeline(config, check_config)
        return text
    check_config(config)
    if not isinstance(config, RlConfig):
        return text
    problems = load_problems(config.data)
    tokenizer = load_tokenizer("model", config.model)
    first = problems[0].messages
    numbers = derived(config) | {
        "problems": len(problems),
        "rollout_tokens_per_step_at_most": derived(config)["rollouts_per_step"]
        * config.rollout.max_new_tokens,
    }
    notes = [f"{name}: {value}" for name, value in numbers.items()]
    notes.append(
        f"first prompt, {len(render_prompt(tokenizer, first))} tokens, gold answer {problems[0].solution!r}:"
    )
    notes += [f"  {line}" for line in render_prompt_text(tokenizer, first).splitlines()]
    if config.uses_uplift:
        read = executor_text(config.uplift.executor, problems[0])
        notes += ["the executor reads:", *(f"  {line}" for line in read.splitlines())]
    return text + "\n" + "\n".join(f"# {note}".rstrip() for note in notes)


def evaluate(arguments: list[str]) -> int:
    from fastrl.cli.eval import EvalOptions, run_eval
    from fastrl.config.flags import parse_flags

    asks_help = any(flag in arguments for flag in ("-h", "--help"))
    checkpoint = "CHECKPOINT" if asks_help else take_positional(arguments, "eval", "CHECKPOINT")
    run_eval(checkpoint, parse_flags(EvalOptions, None, arguments, prog="fastrl eval CHECKPOINT"))
    return 0


def sweep(arguments: list[str]) -> int:
    from fastrl.cli.sweep import sweep as run_sweep

    return run_sweep(arguments)


def reproduce(arguments: list[str]) -> int:
    from fastrl.cli.reproduce import reproduce as run_reproduce

    return run_reproduce(arguments)


def groups(arguments: list[str]) -> int:
    from fastrl.cli.groups import groups as build_groups

    return build_groups(arguments)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlotOptions:
    """Curves of run folders, drawn over each other."""

    out: str | None = None
    """PNG to write. null: curves.png in the first run's folder."""
    metrics: tuple[str, ...] = ()
    """Panels, such as eval/avg@16 eval/pass@4 eval/pass@16. None named: evaluations, rewards, how the policy
    behaves."""


def plot(arguments: list[str]) -> int:
    from fastrl.config.flags import parse_flags
    from fastrl.report.plot import plot_run, text_curves

    runs = []
    while arguments and not arguments[0].startswith("-"):
        runs.append(arguments.pop(0))
    options = parse_flags(PlotOptions, None, arguments, prog="fastrl plot RUN [RUN ...]")
    path = plot_run(runs, options.out, options.metrics)
    print(text_curves(runs, metrics=options.metrics))
    print(path)
    return 0


def compare(arguments: list[str]) -> int:
    from fastrl.cli.compare import compare as compare_runs

    return compare_runs(arguments)


def report(arguments: list[str]) -> int:
    from fastrl.cli.report import report as write_report

    return write_report(arguments)


def demo(arguments: list[str]) -> int:
    from fastrl.tiny.demo import main as run_demo

    run_demo(arguments)
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyOptions:
    """The tiny world as a folder: generator, receiver, held_out_receiver, train.jsonl, test.jsonl."""

    dir: str = "tiny-world"
    """Folder to write; recipes *-tiny read tiny-world."""
    tracelift: bool = False
    """Beside these: planner, executor, held_out_executor, and problems and judged traces of both tasks, as
    {math,code}-{train,test,seeds}.jsonl."""
    int: bool = False
    """Beside these: solver, and problems it hardly ever solves, as int-{train,test}.jsonl."""
    weak: bool = False
    """Beside these: generators that were taught to write from faithfully to unfaithfully, weak-explicit to
    weak-guessed, weak-base, which was taught nothing, and weak-{train,test,long,text,traces}.jsonl."""


def tiny(arguments: list[str]) -> int:
    from transformers.utils.logging import disable_progress_bar

    from fastrl.config.flags import parse_flags
    from fastrl.tiny.interventions.make import with_int_world
    from fastrl.tiny.tracelift.make import export_lift_world
    from fastrl.tiny.weak.make import with_weak_world
    from fastrl.tiny.world.make import export_world

    options = parse_flags(TinyOptions, None, arguments, prog="fastrl tiny")
    disable_progress_bar()  # type: ignore[no-untyped-call]
    export: Callable[[str], Path] = export_lift_world if options.tracelift else export_world
    if options.int:
        export = partial(with_int_world, export)
    if options.weak:
        export = partial(with_weak_world, export)
    print(export(options.dir))
    return 0


def doctor(arguments: list[str]) -> int:
    if arguments:
        from fastrl.cli.doctor import doctor as examine  # needs torch, whose absence the page can tell

        return examine(arguments)
    from fastrl.tools.doctor.machine import report

    healthy, text = report()
    print(text)
    return 0 if healthy else 1


def take_flag(arguments: list[str], flag: str) -> bool:
    """Whether the flag is there; it is taken out."""
    found = flag in arguments
    arguments[:] = [argument for argument in arguments if argument != flag]
    return found


def take_number(arguments: list[str], command: str, flag: str) -> float | None:
    """The number after the flag; both are taken out. None: the flag is not there."""
    if flag not in arguments:
        return None
    place = arguments.index(flag)
    _, *values = arguments[place : place + 2]
    del arguments[place : place + 2]
    try:
        return float(values[0])
    except (IndexError, ValueError) as error:
        got = repr(values[0]) if values else "nothing"
        raise ValueError(f"[{command}] {flag[2:]}: expected a number, got {got}") from error


def take_positional(arguments: list[str], command: str, name: str) -> str:
    if not arguments or arguments[0].startswith("-"):
        got = f"{arguments[0]!r} in its place" if arguments else "nothing"
        raise ValueError(f"[{command}] {name}: expected it before any flag, got {got}")
    return arguments.pop(0)


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "demo": demo,
    "tiny": tiny,
    "plan": plan,
    "train": train,
    "sweep": sweep,
    "reproduce": reproduce,
    "eval": evaluate,
    "groups": groups,
    "plot": plot,
    "compare": compare,
    "report": report,
    "doctor": doctor,
}

if __name__ == "__main__":
    sys.exit(main())
