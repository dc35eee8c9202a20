"""Real terminals: runs a fastrl command in one, or attaches this process's stderr to one."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import sys
import termios
import time
from collections.abc import Sequence
from contextlib import suppress
from threading import Thread

TIMEOUT_S = 120.0


class Screen:
    """Starts `python -m fastrl.cli.main WORDS` (or other words after python) in a terminal of its own.

    Args:
        words: of the command line.
        python: what runs them.
    """

    def __init__(
        self, words: Sequence[str], width: int = 100, height: int = 30, python: Sequence[str] = ()
    ) -> None:
        command = [sys.executable, *(python or ("-m", "fastrl.cli.main")), *words]
        self.text, self.code = "", None
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            environment = {name: os.environ[name] for name in os.environ if name not in ("COLUMNS", "LINES")}
            os.execve(command[0], command, environment | {"TERM": "xterm-256color"})
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def until(self, wanted: str) -> None:
        """Read until the text has been written since the last call; it may have been redrawn meanwhile."""
        start, end = len(self.text), time.monotonic() + TIMEOUT_S
        while wanted not in self.text[start:]:
            assert time.monotonic() < end and self._read(), f"no {wanted!r} in {self.text[start:]!r}"

    def press(self, keys: str) -> None:
        os.write(self.terminal, keys.encode())

    def ended(self) -> int:
        """Read to the end; return the exit code."""
        end = time.monotonic() + TIMEOUT_S
        while self._read():
            assert time.monotonic() < end, self.text
        if self.code is None:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.code

    def _read(self) -> bool:
        if not select.select([self.terminal], [], [], TIMEOUT_S)[0]:
            return False
        try:
            data = os.read(self.terminal, 1 << 16)
        except OSError:  # Linux says so when the other side is closed
            return False
        self.text += data.decode("utf-8", "replace")
        return bool(data)

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *error: object) -> None:
        if self.code is None:
            os.kill(self.pid, 9)
            os.waitpid(self.pid, 0)
        os.close(self.terminal)


class TerminalStderr:
    """A terminal that a thread reads; `file` writes to it."""

    def __init__(self, width: int = 100, height: int = 30) -> None:
        self.reads, writes = pty.openpty()
        fcntl.ioctl(writes, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        self.file = os.fdopen(writes, "w", encoding="utf-8")
        self.data, self.marks = b"", 0
        self.thread = Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        with suppress(OSError):  # the other side is closed
            while data := os.read(self.reads, 1 << 16):
                self.data += data

    def text(self) -> str:
        """Return what has been written until now, with its escape codes."""
        self.marks += 1
        mark, end = f"[mark {self.marks}]", time.monotonic() + TIMEOUT_S
        self.file.write(mark)
        self.file.flush()
        while mark.encode() not in self.data:
            assert time.monotonic() < end
            time.sleep(0.002)
        return self.data.decode()

    def close(self) -> None:
        self.file.close()
        self.thread.join(TIMEOUT_S)
        os.close(self.reads)
