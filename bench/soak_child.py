"""The process that the soak test disturbs: it reports its progress, and causes some of the faults itself."""

from __future__ import annotations

import mmap
import os
import resource
import signal
import struct
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fastrl.config import RlConfig
from fastrl.grading import AnswerGrader, Verdict
from fastrl.grading.process import GradingProcess, Request
from fastrl.policy.checkpoint import Saver
from fastrl.runtime.errors import exit_code
from fastrl.runtime.run import Run
from fastrl.train import run_stage
from fastrl.training import update

HEAD = struct.Struct("q64s")
COUNT = struct.Struct("q")
SAVES = struct.Struct("qd")
PAGE = resource.getpagesize()
MAX_STEPS = 10000


class Progress:
    """Memory shared by parent and child.

    It holds the finished steps, the phase, the resident MiB after each step, the number of killed grading
    processes, the number of started checkpoints and the seconds of the last one.
    """

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        self.seconds_per_step = 0.1

    @classmethod
    def shared(cls) -> Progress:
        return cls(mmap.mmap(-1, HEAD.size + 4 * MAX_STEPS + COUNT.size + SAVES.size))

    def clear(self) -> None:
        self.write(0, "loading")
        self.write_saves(0, self.save_seconds)

    def write(self, steps: int, phase: str) -> None:
        HEAD.pack_into(self._memory, 0, steps, phase.encode())

    @property
    def steps(self) -> int:
        return int(HEAD.unpack_from(self._memory)[0])

    @property
    def phase(self) -> str:
        return str(HEAD.unpack_from(self._memory)[1].rstrip(b"\0").decode())

    @property
    def graders_killed(self) -> int:
        return int(COUNT.unpack_from(self._memory, HEAD.size + 4 * MAX_STEPS)[0])

    def count_grader(self) -> None:
        COUNT.pack_into(self._memory, HEAD.size + 4 * MAX_STEPS, self.graders_killed + 1)

    @property
    def saves(self) -> int:
        return int(SAVES.unpack_from(self._memory, len(self._memory) - SAVES.size)[0])

    @property
    def save_seconds(self) -> float:
        return float(SAVES.unpack_from(self._memory, len(self._memory) - SAVES.size)[1])

    def write_saves(self, begun: int, seconds: float) -> None:
        SAVES.pack_into(self._memory, len(self._memory) - SAVES.size, begun, seconds)

    @property
    def memory_mib(self) -> list[float]:
        return [
            struct.unpack_from("f", self._memory, HEAD.size + 4 * step)[0] for step in range(1, self.steps)
        ]

    def finish_step(self) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        struct.pack_into("f", self._memory, HEAD.size + 4 * self.steps, pages * PAGE / 2**20)
        self.write(self.steps + 1, self.phase)


def child(config: RlConfig, progress: Progress, errors: Path, fault: tuple[str, int] | None) -> int:
    """Run the stage like the command line does; return the exit code."""
    descriptor = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(descriptor, stream.fileno())
    watch(progress)
    if fault is not None:
        acts = {"file": die_at_file, "nan": spoil_gradient, "grader": kill_graders}
        acts[fault[0]](fault[1], config, progress)
    try:
        return exit_code(lambda: 0 if run_stage(config) else 1)
    finally:
        sys.stderr.flush()


def watch(progress: Progress) -> None:
    """Report every phase, step and checkpoint to the parent."""
    enter, log, save, write = Run.enter, Run.log, Saver.save, Saver._write
    began = 0.0

    def entered(run: Run, phase: str) -> None:
        progress.write(progress.steps, phase)
        enter(run, phase)

    def logged(run: Run, step: int, metrics: dict[str, float]) -> dict[str, float]:
        line = log(run, step, metrics)
        progress.finish_step()
        return line

    def saved(saver: Saver, *arguments: Any) -> Path:
        nonlocal began
        began = time.monotonic()
        progress.write_saves(progress.saves + 1, progress.save_seconds)
        return save(saver, *arguments)

    def written(saver: Saver, *arguments: Any) -> None:
        write(saver, *arguments)
        progress.write_saves(progress.saves, time.monotonic() - began)

    Run.enter, Run.log = entered, logged  # type: ignore[method-assign]
    Saver.save, Saver._write = saved, written  # type: ignore[method-assign]


def die_at_file(calls: int, config: RlConfig, progress: Progress) -> None:
    """Kill this process just before Python's n-th access to a file of the run."""
    left = calls

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if (
            arguments
            and isinstance(arguments[0], (str, Path))
            and str(arguments[0]).startswith(config.run.dir)
        ):
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def spoil_gradient(calls: int, config: RlConfig, progress: Progress) -> None:
    """Set one parameter's gradient to NaN in the n-th call."""
    left, accumulate = calls, update.accumulate_gradients

    def spoilt(policy: Any, *arguments: Any) -> None:
        nonlocal left
        accumulate(policy, *arguments)
        left -= 1
        if not left:
            parameter = next(iter(policy.parameters()))
            parameter.grad = torch.full_like(parameter, float("nan"))

    update.accumulate_gradients = spoilt


def kill_graders(every: int, config: RlConfig, progress: Progress) -> None:
    """Kill the grading process at every n-th pair before it can answer.

    A retried pair is spared: a pair at which two processes die counts as an error.
    """
    send, count, again = GradingProcess.send, 0, set[Request]()

    def sent(process: GradingProcess, task: int, pair: Request, limit_s: float) -> bool:
        nonlocal count
        count += 1
        dies = count % every == 0 and pair not in again
        again.discard(pair)
        if not dies:
            return send(process, task, pair, limit_s)
        again.add(pair)
        os.killpg(process._process.pid, signal.SIGSTOP)
        took = send(process, task, pair, limit_s)
        os.killpg(process._process.pid, signal.SIGKILL)
        progress.count_grader()
        return took

    GradingProcess.send = sent  # type: ignore[method-assign]


def spread(completion_ids: Sequence[Sequence[int]], **columns: Any) -> list[float]:
    """Return rewards that vary, since a random model never answers right."""
    return [sum(ids) % 7 / 7 for ids in completion_ids]


GRADER = AnswerGrader(num_workers=1, timeout_s=60.0)


def graded(completion_ids: Sequence[Sequence[int]], **columns: Any) -> list[float]:
    """Return `spread` plus the verdict on 1 / sqrt(k) = sqrt(k or k + 1) / k, which needs algebra."""
    keys = [sum(ids) for ids in completion_ids]
    roots = [(2 + key % 5, 2 + key % 5 + key % 2) for key in keys]
    pairs = [
        (rf"\boxed{{\frac{{1}}{{\sqrt{{{k}}}}}}}", rf"\frac{{\sqrt{{{other}}}}}{{{k}}}") for k, other in roots
    ]
    verdicts = GRADER.grade(pairs)
    if not {*verdicts} <= {Verdict.CORRECT, Verdict.WRONG}:
        raise RuntimeError(f"[soak] graded: expected pairs that are right or wrong, got {verdicts}")
    return [key % 7 / 7 + (verdict is Verdict.CORRECT) for key, verdict in zip(keys, verdicts, strict=True)]
