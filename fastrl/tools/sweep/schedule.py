"""Starts runs as processes: one after another, several at a time, or one at a time per GPU."""

from __future__ import annotations

import fcntl
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO

from fastrl.grading.programs.sandbox_kernel import die_with_parent
from fastrl.report.console import EVERY_S, Console
from fastrl.report.pace import Activity, duration
from fastrl.report.text import last_line
from fastrl.tools.sweep.cells import LOCK, Cell, failure

POLL_S, GRACE_S, LOCK_S = 0.05, 10.0, 5.0
Command = Callable[[Cell], list[str]]


def run_missing(
    runs: Sequence[Cell],
    command: Command,
    lock: IO[str],
    *,
    is_finished: Callable[[Cell], bool],
    write_end: Callable[[Cell, int], None],
    summary: Callable[[Cell], str] = lambda run: "",
    gpus: Sequence[str] = (),
    lanes: int = 1,
) -> None:
    """Run all unfinished runs; print a line for each that ends, and show progress on stderr.

    Args:
        write_end: stores a run's exit code.
        summary: text printed after the duration of a successful run.
        command, lock, gpus, lanes: see run_cells.
    """
    left = [run for run in runs if not is_finished(run)]
    before = done = len(runs) - len(left)
    at_a_time = len(gpus) or lanes
    print(f"{len(runs)} runs, {done} finished; {at_a_time} at a time, logs next to their folders", flush=True)
    since = time.monotonic()
    going: list[Cell] = []

    def start_of(run: Cell) -> list[str]:
        going.append(run)
        return command(run)

    def activity() -> Activity:
        activities = [f"{run.name}: {last_line(run.log)}" for run in list(going)]
        return Activity("; ".join(activities), done, len(runs))

    def ended(run: Cell, code: int, took: str) -> None:
        nonlocal done
        done += 1
        going.remove(run)
        write_end(run, code)
        outcome = f"failed after {took}, {failure(run)}" if code else f"{took}{summary(run)}"
        to_go = (time.monotonic() - since) / (done - before) * (len(runs) - done)
        print(f"{done}/{len(runs)}  {run.name}  {outcome}; about {duration(to_go)} to go", flush=True)

    with Console(len(runs), unit="run", every_s=EVERY_S, watch=activity):
        run_cells(left, start_of, gpus, lock, ended, lanes)


def run_cells(
    waiting: Sequence[Cell],
    command: Command,
    gpus: Sequence[str],
    lock: IO[str],
    ended: Callable[[Cell, int, str], None],
    lanes: int = 1,
) -> None:
    """Run all cells; a failing run doesn't stop the others.

    Args:
        waiting: runs in order.
        command: returns the command line of a run; its output is appended to the run's log.
        gpus: run one cell at a time on each, set as CUDA_VISIBLE_DEVICES; empty: don't set it.
        lock: the folder's locked file; each run inherits the lock.
        ended: called for each ended run with its exit code, negative for a signal, and its duration.
        lanes: number of parallel runs if no GPUs are given.
    Raises:
        SystemExit: on SIGINT or SIGTERM, after ending the runs.
    """
    queue = deque(waiting)
    slots: list[str | None] = list(gpus) or [None] * lanes
    running: dict[int, tuple[Cell, subprocess.Popen[bytes], float]] = {}
    with stop_signals() as received, ending(lambda: [process for _, process, _ in running.values()]):
        while queue or running:
            if received:
                raise SystemExit(128 + received[0])
            for slot, gpu in enumerate(slots):
                if slot not in running and queue:
                    cell = queue.popleft()
                    running[slot] = cell, start(cell, command(cell), gpu, lock), time.monotonic()
            time.sleep(POLL_S)
            for slot, (cell, process, since) in list(running.items()):
                if (code := process.poll()) is not None:
                    del running[slot]
                    ended(cell, code, duration(time.monotonic() - since))


def start(cell: Cell, command: list[str], gpu: str | None, lock: IO[str]) -> subprocess.Popen[bytes]:
    """Start a run in its own process group, which terminal signals don't reach.

    It is killed when this process ends for any reason, and holds the lock while it lives.
    """
    cell.ended.unlink(missing_ok=True)
    cell.log.parent.mkdir(parents=True, exist_ok=True)
    device = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
    with cell.log.open("a") as log:
        log.write(
            "$ " + shlex.join([*(f"{name}={value}" for name, value in device.items()), *command]) + "\n"
        )
        log.flush()
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | device,
            start_new_session=True,
            pass_fds=(lock.fileno(),),
            preexec_fn=die_with_parent if sys.platform == "linux" else None,
        )


@contextmanager
def locked(folder: Path) -> Iterator[IO[str]]:
    """Hold the folder's lock; it is released when this process and all its runs have ended.

    Raises:
        ValueError: another sweep holds the lock.
    """
    with (folder / LOCK).open("a") as lock:
        until = time.monotonic() + LOCK_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > until:
                    raise ValueError(
                        f"[sweep] dir: expected no other sweep running in {folder}, got one"
                    ) from error
                time.sleep(POLL_S)
        yield lock


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list instead of interrupting, so that no process is left running."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def ending(processes: Callable[[], Sequence[subprocess.Popen[bytes]]]) -> Iterator[None]:
    """End the processes and their children on any exit from the block."""
    try:
        yield
    finally:
        end(processes())


def end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Send SIGTERM to each process group; after its leader's end or GRACE_S, send SIGKILL to the rest."""
    left = [process for process in processes if process.returncode is None]
    for process in left:
        os.killpg(process.pid, signal.SIGTERM)
    until = time.monotonic() + GRACE_S
    # the leaders are not reaped yet, so that their ids stay valid as group ids
    while not all(map(has_ended, left)) and time.monotonic() < until:
        time.sleep(POLL_S)
    for process in left:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def has_ended(process: subprocess.Popen[bytes]) -> bool:
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
