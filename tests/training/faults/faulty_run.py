"""Runs a recipe under one fault after another, each in its own folder, and then again without it.

python faulty_run.py RECIPE.yaml FAULT [FAULT ...]; prints {fault: what was seen} as JSON.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fastrl.config.load import load_config
from fastrl.engine.tree.engine import TorchEngine
from fastrl.policy.checkpoint import Saver, complete_checkpoints, damaged
from fastrl.runtime.errors import exit_code
from fastrl.runtime.run import Run
from fastrl.train import run_stage
from fastrl.training import update


def at_call(owner, name, number, act):
    """From now on the n-th call of owner.name does `act` first."""
    real, calls = getattr(owner, name), 0

    def called(self, *arguments, **options):
        nonlocal calls
        calls += 1
        if calls == number:
            act()
        return real(self, *arguments, **options)

    setattr(owner, name, called)


def raises(error):
    def act():
        raise error

    return act


def spoil(parts):
    for parameter in parts:
        parameter.grad = torch.full_like(parameter, float("inf"))


def nan(config):
    real, calls = update.apply_gradients, 0

    def spoilt(policy, *arguments):
        nonlocal calls
        calls += 1
        if calls == 3:
            spoil(policy.parameters())
        return real(policy, *arguments)

    update.apply_gradients = spoilt


def smallest_files(size_of):
    """No file may grow beyond so many bytes, as if the disk were full."""

    def act():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size_of(), resource.RLIM_INFINITY))

    return act


def disk(config):
    # the second checkpoint's weights can be written, what the optimiser keeps can't
    weights = Path(config.run.dir) / "checkpoints/step-000002/model.safetensors"

    def size_of() -> int:
        while not weights.exists():  # the first checkpoint may still be written during training
            time.sleep(0.01)
        return weights.stat().st_size + 5000

    at_call(Saver, "save", 2, smallest_files(size_of))


def torn(config):
    metrics = Path(config.run.dir) / "metrics.jsonl"
    at_call(Run, "log", 4, smallest_files(lambda: metrics.stat().st_size + 40))


FAULTS = {
    "none": lambda config: None,
    "hang": lambda config: at_call(TorchEngine, "generate", 3, lambda: time.sleep(300)),
    "engine": lambda config: at_call(TorchEngine, "generate", 3, raises(RuntimeError("device lost"))),
    "memory_of_an_engine": lambda config: at_call(TorchEngine, "generate", 3, lambda: torch.empty(1 << 50)),
    "memory_of_the_update": lambda config: at_call(
        update, "linear_grpo_loss", 3, raises(torch.OutOfMemoryError("CUDA out of memory. Tried to\nx"))
    ),
    "memory_of_the_host": lambda config: at_call(update, "linear_grpo_loss", 3, raises(MemoryError())),
    "nan": nan,
    "disk": disk,
    "disk_beside": disk,
    "torn": torn,
}


def process(config, fault) -> tuple[int, str]:
    """Exit code, and what a process said on standard error."""
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(writes, 2)
        os.dup2(writes, 1)
        code = 3
        try:
            FAULTS[fault](config)
            code = exit_code(lambda: 0 if run_stage(config) else 1)
        except RuntimeError as error:  # as the interpreter would end
            code = 1
            print(f"Traceback\n{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        sys.stderr.flush()
        os._exit(code)
    os.close(writes)
    said: list[bytes] = []
    with os.fdopen(reads, "rb") as pipe:
        reader = threading.Thread(target=lambda: said.append(pipe.read()))
        reader.start()
        status = os.waitpid(child, 0)[1]
        reader.join()
    return os.waitstatus_to_exitcode(status), said[0].decode()


def seen(config, fault) -> dict:
    folder = Path(config.run.dir)
    code, said = process(config, fault)
    saved = complete_checkpoints(folder / "checkpoints")
    lines = (folder / "metrics.jsonl").read_text()
    again = process(config, "none")
    return {
        "code": code,
        "said": said,
        "saved": [path.name for path in saved],
        "damaged": [path.name for path in saved if path.exists() and damaged(path)],
        "left": [path.name for path in (folder / "checkpoints").glob(".*")],
        "torn": not lines.endswith("\n"),
        "again": again[0],
        "again_said": again[1],
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    recipe = load_config(sys.argv[1])
    # what transformers imports when it is first used, once for all processes
    AutoTokenizer.from_pretrained(recipe.model.path)
    AutoModelForCausalLM.from_pretrained(recipe.model.path)
    found = {}
    for name in sys.argv[2:]:
        # checkpoints are written while training goes on
        own = replace(recipe.run, dir=f"{recipe.run.dir}/{name}", async_save=name.endswith("_beside"))
        if name != "hang":  # a busy machine may take its time over the others
            own = replace(own, hang_timeout_s=0.0)
        found[name] = seen(replace(recipe, run=own), name)
    print(json.dumps(found))
