"""One entry for every stage, on one device or many:

python -m fastrl.train RECIPE [--field value]
torchrun --nproc-per-node 2 -m fastrl.train RECIPE [--field value]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from fastrl.check import check_config
from fastrl.config import Config, RlConfig
from fastrl.distributed import Ranks
from fastrl.load import load_config
from fastrl.stages.rl import run_rl
from fastrl.stages.sft import run_sft


def run_stage(config: Config) -> Path:
    """Check the configuration, then run its stage; returns the folder of the trained model."""
    check_config(config)
    ranks = Ranks.join()
    if isinstance(config, RlConfig):
        return run_rl(config, ranks)
    if ranks.size > 1:
        raise ValueError(f"[train] torchrun: the sft stage runs on one rank, got {ranks.size}")
    return run_sft(config)


def main(arguments: Sequence[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0].startswith("-"):
        raise SystemExit("usage: python -m fastrl.train RECIPE [--field value]")
    print(run_stage(load_config(arguments[0], list(arguments[1:]))))


if __name__ == "__main__":
    main()
