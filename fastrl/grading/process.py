"""A worker process as its owner sees it: start, send, receive, kill."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, cast

from fastrl.grading.verdict import Verdict
from fastrl.runtime.redact import for_graders

LOADING_LIMIT_S = 120.0
LOADING_TRIES = 3
"""Processes in a row that may be killed from outside while they load."""
Request = tuple[str, str, str, float, bool]
"""Answer, gold answer, level, tolerance; True: the answer is a whole response."""
PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])


class GradingProcess:
    """A grading process: loading math-verify, then idle or at a task."""

    def __init__(self, timeout_s: float) -> None:
        paths = (PACKAGE_ROOT, os.environ.get("PYTHONPATH"))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fastrl.grading.worker", str(timeout_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=for_graders(os.environ) | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)},
        )
        self._requests = cast(IO[bytes], self._process.stdin)
        self.replies = cast(IO[bytes], self._process.stdout)
        self._timeout_s = timeout_s
        self._loading = True
        self.task: int | None = None
        self.rule = ""
        self.deadline = time.monotonic() + LOADING_LIMIT_S

    @property
    def idle(self) -> bool:
        return not self._loading and self.task is None

    def send(self, task: int, request: Request) -> bool:
        """Return False if the process is gone."""
        try:
            self._requests.write(json.dumps(request).encode() + b"\n")
            self._requests.flush()
        except BrokenPipeError:
            return False
        self.task = task
        self.deadline = time.monotonic() + self._timeout_s
        return True

    def receive(self) -> Verdict | None:
        """Return its verdict on its task, or None for being ready; self.rule is what decided. ERROR without a
        task: it was killed while it loaded."""
        line = self.replies.readline().decode().strip()
        if self._loading:
            if line != "ready":
                code = self._process.wait()
                if code < 0:
                    return Verdict.ERROR
                raise self.cannot_load(f"exit code {code}")
            self._loading = False
            return None
        self.task = None
        if not line:
            return Verdict.TIMEOUT if time.monotonic() >= self.deadline else Verdict.ERROR
        verdict, _, self.rule = line.partition(" ")
        return Verdict(verdict)

    def expire(self) -> Verdict:
        if self._loading:
            raise self.cannot_load("no answer")
        self.task = None
        return Verdict.TIMEOUT

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self.replies.close()
        with suppress(BrokenPipeError):  # an unsent request goes down with it
            self._requests.close()

    def cannot_load(self, got: str) -> RuntimeError:
        self.kill()
        return RuntimeError(
            f"[verify] worker: expected math-verify loaded in {LOADING_LIMIT_S:.0f} s, got {got}"
        )
