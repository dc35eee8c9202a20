"""Run a recipe on one device or many:

python -m fastrl.train RECIPE [--field value]
torchrun --nproc-per-node 2 -m fastrl.train RECIPE [--field value]
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers.utils.logging import disable_progress_bar

from fastrl.check import check_config, check_ranks
from fastrl.config import (
    Config,
    CptConfig,
    GroupsConfig,
    HardSetConfig,
    InterveneConfig,
    PipelineConfig,
    Recipe,
    RewardModelConfig,
    RlConfig,
    SftConfig,
    SubsetConfig,
)
from fastrl.config.files import check_files
from fastrl.config.load import load_config
from fastrl.runtime.determinism import deterministic
from fastrl.runtime.distributed import Ranks
from fastrl.runtime.errors import Interrupted, exit_code
from fastrl.stages.cpt import run_cpt
from fastrl.stages.groups import run_groups
from fastrl.stages.hard_set import run_hard_set
from fastrl.stages.intervene import run_intervene
from fastrl.stages.pipeline import run_pipeline
from fastrl.stages.reward_model import run_reward_model
from fastrl.stages.rl import run_rl
from fastrl.stages.sft import run_sft
from fastrl.stages.subset import run_subset

STAGES: dict[type[Any], Callable[[Any, Ranks], Path]] = {
    RlConfig: run_rl,
    SftConfig: run_sft,
    CptConfig: run_cpt,
    RewardModelConfig: run_reward_model,
    GroupsConfig: run_groups,
    HardSetConfig: run_hard_set,
    InterveneConfig: run_intervene,
    SubsetConfig: run_subset,
}


def run_recipe(config: Recipe) -> Path:
    """Run a stage or a pipeline; return the path of the (last) stage's output."""
    if not isinstance(config, PipelineConfig):
        return run_stage(config)
    ranks = Ranks.join()
    return run_pipeline(config, check_config, lambda stage: run_stage(stage, ranks), ranks)


def run_and_leave(config: Recipe) -> Path:
    """Run a recipe and leave the process group, also after an interrupt; for a process that then exits."""
    try:
        output = run_recipe(config)
    except Interrupted:  # on every rank, after the same step
        Ranks.leave()
        raise
    Ranks.leave()
    return output


def run_stage(config: Config, ranks: Ranks | None = None) -> Path:
    """Check the configuration, then run its stage on all ranks.

    Args:
        ranks: None: those that torchrun has started.
    Returns: the folder of the stage's output: a checkpoint, or sampled data.
    """
    # transformers shows a progress bar for every load and save
    disable_progress_bar()  # type: ignore[no-untyped-call]
    check_config(config)
    ranks = ranks or Ranks.join()
    check_ranks(config, ranks.size)
    with deterministic(config.run.deterministic):
        output = STAGES[type(config)](config, ranks)
    ranks.wait()  # until the output is written
    return output


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)

    def train() -> int:
        if not arguments or arguments[0].startswith("-"):
            raise ValueError(
                "[train] RECIPE: expected it before any flag: python -m fastrl.train RECIPE [--field value]"
            )
        config = load_config(arguments[0], arguments[1:])
        check_files(config, arguments[0])
        print(run_and_leave(config))
        return 0

    return exit_code(train)


if __name__ == "__main__":
    sys.exit(main())
