"""run.deterministic: torch settings with which a run is bitwise reproducible."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@contextmanager
def deterministic(enabled: bool) -> Iterator[None]:
    """Make torch use only deterministic algorithms within the block; it raises for those that are not.

    The other half is fastrl.config.microbatch_tokens: each sequence is its own micro-batch, so that no matrix
    size depends on train.tokens_per_microbatch. CPU runs are reproducible without this. Not covered: another
    machine, another number of ranks or threads, other engine batches (engine.max_batch_tokens), and vLLM.

    Args:
        enabled: False: change nothing.
    """
    if not enabled:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    workspace = os.environ.get(WORKSPACE)
    # cuBLAS reads it when it creates its first handle; a value that the user has set stays
    os.environ.setdefault(WORKSPACE, ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
        if workspace is None:
            os.environ.pop(WORKSPACE, None)
