"""Runs as processes: one after another, several at a time, or one at a time on each GPU."""

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
from fastrl.report.pace import Glance, duration
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
    """Run those that are not finished; print how many, and a line for each one that ends. On stderr, how far
    the runs are that go on.

    Args:
        write_end: keeps a run's exit code next to its folder.
        summary: what is printed of a run that has succeeded, after the time that it took.
        command, lock, gpus, lanes: as of run_cells.
    """
    left = [run for run in runs if not is_finished(run)]
    before = done = len(runs) - len(left)
    at_a_time = len(gpus) or lanes
    print(f"{len(runs)} runs, {done} finished; {at_a_time} at a time, logs beside them", flush=True)
    since = time.monotonic()
    going: list[Cell] = []

    def start_of(run: Cell) -> list[str]:
        going.append(run)
        return command(run)

    def glance() -> Glance:
        said = [f"{run.name}: {last_line(run.log)}" for run in list(going)]
        return Glance("; ".join(said), done, len(runs))

    def ended(run: Cell, code: int, took: str) -> None:
        nonlocal done
        done += 1
        going.remove(run)
        write_end(run, code)
        outcome = f"failed after {took}, {failure(run)}" if code else f"{took}{summary(run)}"
        to_go = (time.monotonic() - since) / (done - before) * (len(runs) - done)
        print(f"{done}/{len(runs)}  {run.name}  {outcome}; about {duration(to_go)} to go", flush=True)

    with Console(len(runs), unit="run", every_s=EVERY_S, watch=glance):
        run_cells(left, start_of, gpus, lock, ended, lanes)


def run_cells(
    waiting: Sequence[Cell],
    command: Command,
    gpus: Sequence[str],
    lock: IO[str],
    ended: Callable[[Cell, int, str], None],
    lanes: int = 1,
) -> None:
    """Run them all; a run that fails stops no other.

    Args:
        waiting: in their order.
        command: what starts a run; its output is appended to the run's log.
        gpus: one run at a time on each, as CUDA_VISIBLE_DEVICES; none: on what there is.
        lock: the folder's, held; each run holds it too.
        ended: is told of each run that ended its exit code, below 0 for a signal's, and how long it took.
        lanes: runs at a time where no GPUs are named.
    Raises:
        SystemExit: on SIGINT or SIGTERM, after the runs have been ended.
    """
    queue = deque(waiting)
    slots: list[str | None] = list(gpus) or [None] * lanes
    running: dict[int, tuple[Cell, subprocess.Popen[bytes], float]] = {}
    with asked_to_stop() as asked, ending(lambda: [process for _, process, _ in running.values()]):
        while queue or running:
            if asked:
                raise SystemExit(128 + asked[0])
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
    """The run as a process group of its own, which a signal from the terminal does not reach. It dies with
    this process, however that ends, and keeps the lock as long as it lives."""
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
    """Hold the folder's lock; it is free when this process and all that it started are gone.

    Raises:
        ValueError: another sweep is at work there.
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
                        f"[sweep] dir: expected no other sweep at work in {folder}, got one"
                    ) from error
                time.sleep(POLL_S)
        yield lock


@contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """SIGINT and SIGTERM as they come; they interrupt nothing, so that no run is lost sight of."""
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def ending(processes: Callable[[], Sequence[subprocess.Popen[bytes]]]) -> Iterator[None]:
    """Whatever leaves the block ends the processes with all they started."""
    try:
        yield
    finally:
        end(processes())


def end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """SIGTERM to each one's group; after its end, or GRACE_S, SIGKILL to what is left of the group."""
    left = [process for process in processes if process.returncode is None]
    for process in left:
        os.killpg(process.pid, signal.SIGTERM)
    until = time.monotonic() + GRACE_S
    # not waited for yet, so that its number still stands for its group
    while not all(map(has_ended, left)) and time.monotonic() < until:
        time.sleep(POLL_S)
    for process in left:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def has_ended(process: subprocess.Popen[bytes]) -> bool:
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
