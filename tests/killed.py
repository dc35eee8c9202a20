"""Runs a stage that works in chunks, and kills it with SIGKILL in the n-th one."""

import os
import signal
import sys
from pathlib import Path

from fastrl.config.load import from_dict, read_yaml
from fastrl.stages.hard_set import run_hard_set
from fastrl.stages.intervene import run_intervene
from fastrl.training import progress

STAGES = {
    "hard_set": ("fastrl.training.solve_rates", run_hard_set),
    "intervene": ("fastrl.stages.intervene", run_intervene),
}


def run_killed(path: str, chunks: int) -> None:
    config = from_dict(read_yaml(Path(path)))
    module, run = STAGES[config.stage]

    def in_chunks(path, items, size, work, ranks, **shown):
        done = 0

        def counted(start, chunk):
            nonlocal done
            done += 1
            result = work(start, chunk)
            if done == chunks:
                os.kill(os.getpid(), signal.SIGKILL)  # the chunk's work is done, and not written
            return result

        return progress.in_chunks(path, items, size, counted, ranks, **shown)

    sys.modules[module].in_chunks = in_chunks
    run(config)
