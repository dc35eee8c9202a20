"""Error messages for a full disk, out of memory and a failed engine, with the option to change."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Mapping
from pathlib import Path
from traceback import walk_tb
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError

from fastrl.config.engines import engine_table
from fastrl.policy.optimizer import optimizer_tensors
from fastrl.runtime.errors import EngineDied, Fault

DISK = {errno.ENOSPC: "no space left", errno.EDQUOT: "quota used up", errno.EFBIG: "file too large"}
RESUMES = "the same command resumes from the last checkpoint"


def is_disk_full(error: BaseException) -> bool:
    """Return True if a write failed because the disk is full; safetensors says so only in its message."""
    if isinstance(error, SafetensorError):
        return any(f"os error {number}" in str(error) for number in DISK)
    return isinstance(error, OSError) and error.errno in DISK


def disk_full(error: BaseException, folder: Path, needed: int) -> Fault:
    """Return the error of a full disk: the file, the free space, and a checkpoint's size in bytes."""
    free = shutil.disk_usage(folder).free
    path = getattr(error, "filename", None) or folder
    return Fault(
        f"[run] dir: the disk is full: {path}: {error}; {free:,} bytes are free, a checkpoint takes "
        f"{needed:,}. Saved checkpoints are intact: free some space, or lower run.keep_last, and {RESUMES}"
    )


def checkpoint_bytes(policy: Any, optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of all weights and of the optimiser's state."""
    weights: int = sum(p.numel() * p.element_size() for p in policy.model.parameters())
    return weights + sum(t.numel() * t.element_size() for t in optimizer_tensors(policy, optimizer).values())


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if a device or the host is out of memory; for the host torch raises a RuntimeError."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def out_of_memory(error: BaseException, config: Any, phase: str, engine: str | None) -> Fault:
    """Return the error of out of memory, with the option to lower: of the engine, or of the micro-batch."""
    if engine is None:
        section, name, value = "train", "tokens_per_microbatch", config.train.tokens_per_microbatch
        more = [] if config.model.gradient_checkpointing else ["--model.gradient_checkpointing true"]
    else:
        entry = engine_table(config)[engine]
        section, own = entry.section, entry.engine
        name, value, more = "max_batch_tokens", own.max_batch_tokens, []
        no_sleep = own.sleep or config.rollout.max_staleness  # sleep is on already, or not allowed
        more += [] if no_sleep else [f"--{section}.sleep true, so that engines and training take turns"]
    tries = " or ".join([f"--{section}.{name} {max(1, value // 2)}", *more])
    first = str(error).split("\n", 1)[0]
    return Fault(
        f"[{section}] {name}: out of memory in phase {phase!r} with {value}; try {tries}, with which "
        f"{RESUMES} ({type(error).__name__}: {first})"
    )


def engine_of(trace: TracebackType | None, engines: Mapping[str, Any]) -> str | None:
    """Return the name of the engine whose method raised the error; None if no engine did."""
    names = {id(engine): name for name, engine in engines.items()}
    found = [names.get(id(frame.f_locals.get("self"))) for frame, _ in walk_tb(trace)]
    return next((name for name in found if name is not None), None)


def engine_died(error: BaseException, engine: str, phase: str) -> EngineDied:
    """Return the error of a failed engine."""
    return EngineDied(
        f"[engine] {engine}: failed in phase {phase!r}: {type(error).__name__}: {error}. Nothing of this "
        f"step was kept; {RESUMES} and repeats the step"
    )
