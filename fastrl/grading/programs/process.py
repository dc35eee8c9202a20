"""The parent's side of a worker that runs programs: start, send, receive, kill."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from fastrl.config.executor import ProgramConfig
from fastrl.grading.process import PACKAGE_ROOT
from fastrl.grading.programs.report import Ending
from fastrl.grading.programs.sandbox import Limits

LOADING_LIMIT_S = 60.0
ENVIRONMENT = {
    "PYTHONPATH": PACKAGE_ROOT,
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "OPENBLAS_NUM_THREADS": "1",  # numpy's threads would not live on in forks
}
GRACE_S = 10.0
"""Seconds after a test's time limit at which a silent worker is given up."""


@dataclass(frozen=True, slots=True)
class Run:
    """One test of one program, as sent to a worker."""

    sources: tuple[str, ...]
    """Sources, compiled separately and run one after the other in one module."""
    given: bytes
    """Standard input, or a function test as JSON."""
    entry_point: str | None
    """Function to call; None: the program reads standard input and prints."""
    output_bytes: int
    """Limit of its output, and of its answer to a call."""
    prelude: str = ""
    """Source whose names the program sees as built-in names."""


class NoSandboxError(ValueError):
    """No sandbox for programs works on this machine."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            "[program] run_unsandboxed_code: expected a sandbox for programs that a model wrote (Linux, user "
            f"namespaces), or true, which runs them with all your rights, got false and no sandbox: {reason}"
        )
        self.reason = reason


class ProgramProcess:
    """A worker process: enters its sandbox, then is idle or runs a test."""

    def __init__(self, config: ProgramConfig) -> None:
        self._config = config
        self._limits = Limits(
            config.timeout_s, config.memory_mib << 20, config.max_processes, config.output_kib << 10
        )
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        mode = "plain" if config.run_unsandboxed_code else "sandbox"
        packages = os.pathsep.join(numpy_folders()) if config.numpy else ""
        arguments = (str(theirs.fileno()), str(self._limits.file_bytes), mode, os.getcwd(), packages)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-S", "-s", "-m", "fastrl.grading.programs.worker", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=ENVIRONMENT,
                pass_fds=[theirs.fileno()],
                cwd="/",
                start_new_session=True,  # the trainer handles Ctrl-C
            )
        self._loading = True
        self._files: list[int] = []
        self._output_bytes = 0
        self.task: tuple[int, int] | None = None
        self.deadline = time.monotonic() + LOADING_LIMIT_S

    def fileno(self) -> int:
        return self._control.fileno()

    @property
    def idle(self) -> bool:
        return not self._loading and self.task is None

    def send(self, task: tuple[int, int], run: Run, limit_s: float) -> bool:
        """Send a test; return False if the worker is gone."""
        job = {"sources": run.sources, "entry_point": run.entry_point, "prelude": run.prelude}
        self._files = [_file(json.dumps(job).encode()), _file(run.given), _file(b""), _file(b"")]
        # a full file shows that the limit was met, since no more than it can be written
        limits = replace(self._limits, timeout_s=limit_s, file_bytes=run.output_bytes)
        self._output_bytes = run.output_bytes
        request = {"limits": asdict(limits), "function": run.entry_point is not None}
        try:
            socket.send_fds(self._control, [json.dumps(request).encode()], self._files)
        except (BrokenPipeError, ConnectionResetError):
            self._close_files()
            return False
        self.task = task
        self.deadline = time.monotonic() + limit_s + GRACE_S
        return True

    def receive(self) -> Ending | None:
        """Return how its test ended, or None: it has become ready, or it is gone and `task` stays set."""
        try:
            message = self._control.recv(1 << 17)
        except ConnectionResetError:
            message = b""
        if self._loading:
            self._loaded(json.loads(message) if message else {})
            return None
        if not message:
            return None
        output, errors = (_content(file, self._output_bytes) for file in self._files[2:])
        self._close_files()
        self.task = None
        return Ending(**json.loads(message), output=output, errors=errors)

    def kill(self) -> None:
        """End the worker and everything in its sandbox; closing its socket is enough unless it hangs."""
        self._control.close()
        self._close_files()
        try:
            self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()  # the kernel ends its sandbox too
            self._process.wait()

    def expire(self) -> None:
        """Handle a missed deadline: raise NoSandboxError if the worker was still entering its sandbox."""
        if self._loading:
            self._loaded({})

    def _loaded(self, message: dict[str, object]) -> None:
        if "ready" in message:
            self._loading = False
            return
        self.kill()
        raise NoSandboxError(
            str(message.get("refused", f"a worker that ended with code {self._process.returncode}"))
        )

    def _close_files(self) -> None:
        while self._files:
            os.close(self._files.pop())


def numpy_folders() -> list[str]:
    """Return numpy's folder, and that of the shared libraries in its wheel."""
    spec = find_spec("numpy")
    if spec is None or spec.origin is None:
        raise ValueError("[program] numpy: expected numpy to be installed, got none")
    own = Path(spec.origin).parent
    return [str(each) for each in (own, own.with_name("numpy.libs")) if each.is_dir()]


def _file(content: bytes) -> int:
    descriptor = os.memfd_create("program")
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _content(descriptor: int, limit: int) -> bytes:
    return os.pread(descriptor, limit, 0)
