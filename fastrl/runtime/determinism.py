"""run.deterministic: what must be asked of torch, so that a run gives the same bits again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@contextmanager
def deterministic(asked: bool) -> Iterator[None]:
    """Inside, torch runs algorithms that give the same bits again, and refuses those that can't.

    The other half is fastrl.config.microbatch_tokens: sequences go through the model one by one, so that no
    matrix's size depends on train.tokens_per_microbatch. On a CPU one run repeats another without any of
    this. What it can't promise: the same bits on another machine, with another number of ranks or threads,
    with other batches in an engine (engine.max_batch_tokens), or from vLLM.

    Args:
        asked: False: nothing is changed.
    """
    if not asked:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    workspace = os.environ.get(WORKSPACE)
    # cuBLAS reads it when its first handle is made; a user's own choice stays
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
