"""The process's environment for fastrl doctor: relevant variables, memory and free disk space."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from fastrl.runtime.redact import is_secret, shortened

PREFIXES = (
    "OMP_", "MKL_", "OPENBLAS_", "KMP_", "CUDA_", "CUBLAS_", "NVIDIA_", "NCCL_", "GLOO_", "TORCH", "PYTORCH_",
    "TRITON_", "VLLM_", "HF_", "TRANSFORMERS_", "TOKENIZERS_", "FASTRL_", "WANDB_", "TRACKIO_", "MALLOC_",
)  # fmt: skip
NAMES = (
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LD_PRELOAD", "LD_LIBRARY_PATH",
    "PYTHONPATH", "PYTHONHASHSEED", "VIRTUAL_ENV", "CONDA_DEFAULT_ENV", "TMPDIR", "XDG_CACHE_HOME",
)  # fmt: skip
LONGEST = 90


def variables(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield (name, value) of variables that affect runs; hides secrets and home folders, cuts long values."""
    for name in sorted(environment):
        if name.startswith(PREFIXES) or name in NAMES:
            value = "set, not shown" if is_secret(name) else shortened(environment[name])
            yield name, value if len(value) <= LONGEST else value[: LONGEST - 1] + "…"


def room() -> Iterator[tuple[str, str]]:
    """Yield the machine's memory and the free space on the working directory's disk."""
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    yield "memory", f"{pages * size / 2**30:.0f} GiB"
    disk = shutil.disk_usage(Path.cwd())
    yield "disk", f"{disk.free / 2**30:.0f} of {disk.total / 2**30:.0f} GiB free in the working directory"
