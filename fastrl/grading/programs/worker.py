"""Worker process that runs programs in forks of itself, one test at a time.

Arguments: socket, file limit, "sandbox" or "plain", the trainer's working directory, folders of packages that
programs may import.

For each test it receives open files (program, input or test, standard output and error) and doesn't read
them, so a fork that runs a program knows neither tests nor expected answers. A function test takes two forks
that share only two pipes: the checker runs the test and calls the program through them, with plain data. Only
the checker holds the pipe for the verdict. So a program may print, patch and exit as it likes, and passes
only by right answers. Cheating takes a bug in the kernel, or in the checker's JSON reader.
"""

from __future__ import annotations

import atexit
import builtins
import gc
import json
import os
import select
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from fastrl.grading.programs.forks import run_check, run_program
from fastrl.grading.programs.sandbox import Limits, Namespaces, PlainProcesses

TICK_S = 0.01
"""Interval between checks of the memory in use."""
PRELOADED = (
    "bisect", "collections", "copy", "datetime", "decimal", "fractions", "functools", "hashlib", "heapq",
    "itertools", "math", "operator", "random", "re", "statistics", "string", "threading", "traceback",
    "types", "typing",
)  # fmt: skip
"""Modules that many programs import, loaded before the fork."""

Sandbox = Namespaces | PlainProcesses
Role = Callable[[], None]


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    sys.executable = os.path.realpath(sys.executable)  # a virtual environment won't be visible
    packages = [each for each in sys.argv[5].split(os.pathsep) if each]
    try:
        box: Sandbox = (
            Namespaces(int(sys.argv[2]), sys.argv[4], packages)
            if sys.argv[3] == "sandbox"
            else PlainProcesses()
        )
    except OSError as error:
        control.send(json.dumps({"refused": str(error)}).encode())
        return
    if hasattr(sys, "set_int_max_str_digits"):  # from Python 3.10.7 on
        sys.set_int_max_str_digits(0)  # the time limit is enough
    sys.path[:] = [path for path in sys.path if path.startswith((f"{sys.base_prefix}/lib", "/usr/lib"))]
    sys.path += sorted({os.path.dirname(each) for each in packages})
    for name in (*PRELOADED, *(["numpy"] if packages else [])):
        __import__(name)
    sys.argv[:] = ["program.py"]
    os.environ.clear()
    vars(builtins).update(exit=sys.exit, quit=sys.exit)  # the module site, not imported, would add them
    atexit._clear()  # remove the handlers of our own imports
    gc.collect()
    gc.freeze()  # so that collection in a fork copies no shared pages
    control.send(b'{"ready": true}')
    role = serve(control, box)
    if role is not None:
        role()  # called from main, so that an uncaught exception ends a fork like any Python program


def serve(control: socket.socket, box: Sandbox) -> Role | None:
    """Answer requests until the trainer is gone, then return None; in a fork, return its role at once."""
    while True:
        message, files, _, _ = socket.recv_fds(control, 1 << 16, 4)
        if not message:
            return None
        request = json.loads(message)
        trial = Trial(Limits(**request["limits"]), files, request["function"])
        role = trial.start(box)
        if role is not None:
            return role
        reply = trial.watch(box, control)
        if reply is None:
            return None
        control.send(json.dumps(reply).encode())


class Trial:
    """One test: its forks, and the pipes between them and the worker."""

    def __init__(self, limits: Limits, files: list[int], function: bool) -> None:
        self.limits = limits
        self.function = function
        self.program_file, self.input_file, self.output_file, self.error_file = files
        self.null = os.open("/dev/null", os.O_RDWR)
        self.stage, stage_end = os.pipe()
        self.verdict, verdict_end = os.pipe()
        self.calls, self.replies = os.pipe(), os.pipe()
        stdin = self.null if function else self.input_file
        self.program_end = [stdin, self.output_file, self.error_file, stage_end, self.program_file]
        self.program_end += [self.calls[0], self.replies[1]] if function else []
        self.checker_end = [self.null] * 3 + [verdict_end, self.input_file, self.replies[0], self.calls[1]]
        self.theirs = {*files, self.null, stage_end, verdict_end, *self.calls, *self.replies}
        self.program = self.checker = 0

    def start(self, box: Sandbox) -> Role | None:
        """Fork; return None in the worker, and its role in a fork."""
        began = time.monotonic()
        self.deadline = began + self.limits.timeout_s
        self.program = box.fork()
        if not self.program:
            return partial(run_program, box, self.limits, self.program_end, self.function)
        if self.function:
            self.checker = box.fork()
            if not self.checker:
                return partial(run_check, box, self.limits, self.checker_end)
        for descriptor in self.theirs:
            os.close(descriptor)
        return None

    def watch(self, box: Sandbox, control: socket.socket) -> dict[str, Any] | None:
        """Wait for the end of the test, or end it at a limit; return the reply, or None without a trainer."""
        end = os.pidfd_open(self.checker or self.program)
        poller = select.poll()
        poller.register(end, select.POLLIN)
        poller.register(control, 0)  # only POLLHUP
        limit = None
        alone = False
        while True:
            ready = dict(poller.poll(TICK_S * 1e3))
            alone = control.fileno() in ready
            if end in ready or alone:
                break
            if time.monotonic() >= self.deadline:
                limit = "time"
                break
            if box.memory_bytes() > self.limits.memory_bytes:
                limit = "memory"
                break
        os.close(end)
        reply = self.end(box) | {"limit": limit}
        return None if alone else reply

    def end(self, box: Sandbox) -> dict[str, Any]:
        """Kill all processes of the test, and return how it ended."""
        for pid in (self.checker, self.program):
            if pid:
                box.kill(pid)
        if self.checker:
            os.waitpid(self.checker, 0)
        _, status, usage = os.wait4(self.program, 0)
        stage, verdict = os.read(self.stage, 16), os.read(self.verdict, 1 << 16)
        os.close(self.stage)
        os.close(self.verdict)
        box.clean()
        return {
            "stage": stage.decode(),
            "exit_code": os.waitstatus_to_exitcode(status),
            "cpu_s": usage.ru_utime + usage.ru_stime,
            "verdict": json.loads(verdict) if verdict else None,
        }


if __name__ == "__main__":
    main()
