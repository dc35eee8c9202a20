"""The parent's side of a grading process: start, send, receive, kill."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, cast

from fastrl.grading.verdict import Verdict
from fastrl.runtime.redact import for_graders

READY = "ready"
"""Line that a process sends when it has loaded, and whenever it has a new child."""
LOADING_LIMIT_S = 120.0
LOADING_TRIES = 3
"""Processes in a row that are killed while they load before grading gives up."""
Request = tuple[str, str, str, float, bool]
"""Answer, gold answer, level, tolerance, and True if the answer is a whole response."""
PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])


class GradingProcess:
    """A grading process: loads math-verify, then is idle or works at a task.

    After loading it forks a child that grades, and another one when that is stopped: see
    fastrl.grading.worker.
    """

    def __init__(self, timeout_s: float) -> None:
        paths = (PACKAGE_ROOT, os.environ.get("PYTHONPATH"))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fastrl.grading.worker", str(timeout_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=for_graders(os.environ) | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)},
            start_new_session=True,  # so that it can be killed with its child
        )
        self._requests = cast(IO[bytes], self._process.stdin)
        # unbuffered, so that waiting for the descriptor misses no line
        self.replies = cast(io.BufferedReader, self._process.stdout).detach()
        self._loading = True
        self._num_sent = 0
        self.task: int | None = None
        self.rule = ""
        self.alive = True
        self.deadline = time.monotonic() + LOADING_LIMIT_S

    @property
    def idle(self) -> bool:
        return not self._loading and self.task is None

    def send(self, task: int, request: Request, limit_s: float) -> bool:
        """Send a request; return False if the process is gone."""
        self._num_sent += 1
        try:
            self._requests.write(json.dumps((self._num_sent, *request)).encode() + b"\n")
            self._requests.flush()
        except BrokenPipeError:
            return False
        self.task = task
        self.deadline = time.monotonic() + limit_s
        return True

    def receive(self) -> Verdict | None:
        """Read a line: return the verdict on the task and set self.rule, or return None.

        None: the process is ready, or the reply is to a request that was given up. ERROR while loading: it
        was killed.
        """
        line = self.replies.readline().decode().strip()
        if self._loading:
            if line != READY:
                code = self._process.wait()
                self.alive = False
                if code < 0:
                    return Verdict.ERROR
                raise self.cannot_load(f"exit code {code}")
            self._loading = False
            return None
        self.alive = bool(line)
        number, _, reply = line.partition(" ")
        if line and line != READY and number != str(self._num_sent):
            return None  # a reply to a request that was given up
        self.task = None
        if not line or line == READY:  # it died, or its child did
            return Verdict.TIMEOUT if time.monotonic() >= self.deadline else Verdict.ERROR
        verdict, _, self.rule = reply.partition(" ")
        return Verdict(verdict)

    def expire(self) -> Verdict:
        """Give up the task: stop the child that works at it, and wait for a new child."""
        if self._loading:
            raise self.cannot_load("no answer")
        self.task = None
        self._process.send_signal(signal.SIGUSR1)
        line = b"-"
        while line and line.decode().strip() != READY:
            line = self.replies.readline()
        self.alive = bool(line)
        return Verdict.TIMEOUT

    def kill(self) -> None:
        if self._process.returncode is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self.replies.close()
        with suppress(BrokenPipeError):  # an unsent request is lost
            self._requests.close()

    def cannot_load(self, got: str) -> RuntimeError:
        self.kill()
        return RuntimeError(
            f"[answer] worker: expected math-verify loaded in {LOADING_LIMIT_S:.0f} s, got {got}"
        )
