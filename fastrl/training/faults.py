"""What a fault of the machine comes to, in words: what was short, which option it hangs on, what to do."""

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
GOES_ON = "the same command goes on from the last checkpoint"


def is_disk_full(error: BaseException) -> bool:
    """safetensors tells the system's reason in its message alone."""
    if isinstance(error, SafetensorError):
        return any(f"os error {number}" in str(error) for number in DISK)
    return isinstance(error, OSError) and error.errno in DISK


def disk_full(error: BaseException, folder: Path, needed: int) -> Fault:
    """Names what could not be written, what is free, and what a checkpoint takes."""
    free = shutil.disk_usage(folder).free
    path = getattr(error, "filename", None) or folder
    return Fault(
        f"[run] dir: the disk is full: {path}: {error}; {free:,} bytes are free, a checkpoint takes "
        f"{needed:,}. No saved checkpoint was touched: make space, or lower run.keep_last, and {GOES_ON}"
    )


def checkpoint_bytes(policy: Any, optimizer: torch.optim.Optimizer) -> int:
    """Bytes of all weights and of what the optimiser keeps."""
    weights: int = sum(each.numel() * each.element_size() for each in policy.model.parameters())
    return weights + sum(t.numel() * t.element_size() for t in optimizer_tensors(policy, optimizer).values())


def is_out_of_memory(error: BaseException) -> bool:
    """Of a device, or of the host: there torch raises a plain RuntimeError."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def out_of_memory(error: BaseException, config: Any, phase: str, engine: str | None) -> Fault:
    """Names the knob of whoever asked: an engine's tokens, or those of a micro-batch."""
    if engine is None:
        section, name, value = "train", "tokens_per_microbatch", config.train.tokens_per_microbatch
        more = [] if config.model.gradient_checkpointing else ["--model.gradient_checkpointing true"]
    else:
        entry = engine_table(config)[engine]
        section, own = entry.section, entry.engine
        name, value, more = "max_batch_tokens", own.max_batch_tokens, []
        no_use = own.sleep or config.rollout.max_staleness  # which refuses sleep
        more += [] if no_use else [f"--{section}.sleep true, so that engines and training take turns"]
    tries = " or ".join([f"--{section}.{name} {max(1, value // 2)}", *more])
    first = str(error).split("\n", 1)[0]
    return Fault(
        f"[{section}] {name}: out of memory in phase {phase!r} with {value}; try {tries}. With it the same "
        f"command goes on from the last checkpoint ({type(error).__name__}: {first})"
    )


def engine_of(trace: TracebackType | None, engines: Mapping[str, Any]) -> str | None:
    """The engine whose own code an error came out of; None where it came from elsewhere."""
    names = {id(engine): name for name, engine in engines.items()}
    found = [names.get(id(frame.f_locals.get("self"))) for frame, _ in walk_tb(trace)]
    return next((name for name in found if name is not None), None)


def engine_died(error: BaseException, engine: str, phase: str) -> EngineDied:
    return EngineDied(
        f"[engine] {engine}: failed in phase {phase!r}: {type(error).__name__}: {error}. Nothing of this "
        f"step was kept; {GOES_ON}, and takes the step again"
    )
