"""Checkpoints that are whole or absent: written aside, renamed when complete, checked by digest when read."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from fastrl.policy.model import Policy
from fastrl.policy.optimizer import optimizer_tensors, restore_optimizer

log = logging.getLogger(__name__)
STATE, OPTIMIZER = "state.json", "optimizer.safetensors"


def save_checkpoint(
    folder: Path, policy: Policy, optimizer: torch.optim.Optimizer, state: dict[str, Any], keep_last: int
) -> Path:
    """Write folder/step-N; then drop the oldest beyond `keep_last`. `state` holds step and data position;
    random numbers are functions of (seed, step), so there is no generator state to keep."""
    final = folder / f"step-{state['step']:06d}"
    partial = folder / f".{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    policy.save(partial)
    save_file(optimizer_tensors(policy, optimizer), partial / OPTIMIZER)
    inside = sorted(path for path in partial.rglob("*") if path.is_file())
    files = {str(path.relative_to(partial)): digest(path) for path in inside}
    (partial / STATE).write_text(json.dumps({**state, "files": files}, indent=2) + "\n")
    for path in [*partial.rglob("*"), partial]:
        sync(path)
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    sync(folder)
    for old in complete_checkpoints(folder)[:-keep_last]:
        shutil.rmtree(old)
    return final


def complete_checkpoints(folder: Path) -> list[Path]:
    """step-* folders, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint whose files are all as they were written; damaged ones are named, passed over."""
    for path in reversed(complete_checkpoints(folder)):
        damage = damaged(path)
        if damage is None:
            return path
        log.warning("checkpoint %s passed over: %s", path, damage)
    return None


def damaged(path: Path) -> str | None:
    if not (path / STATE).exists():
        return f"{STATE} is missing"
    try:
        files = json.loads((path / STATE).read_text())["files"]
    except (json.JSONDecodeError, KeyError) as error:
        return f"{STATE} is unreadable ({error})"
    for name, expected in files.items():
        if not (path / name).exists():
            return f"{name} is missing"
        if digest(path / name) != expected:
            return f"{name} is not what was written"
    return None


def load_optimizer(path: Path, policy: Policy, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Fill the optimiser from a checkpoint; returns its state. Weights are loaded with the policy."""
    with safe_open(path / OPTIMIZER, framework="pt") as file:
        restore_optimizer(policy, optimizer, file.get_tensor, set(file.keys()))
    state: dict[str, Any] = json.loads((path / STATE).read_text())
    return state


def digest(path: Path) -> str:
    whole = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            whole.update(block)
    return whole.hexdigest()


def sync(path: Path) -> None:
    """Onto the disk, so that a rename never outruns the bytes it names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
