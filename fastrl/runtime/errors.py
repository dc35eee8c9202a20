"""Errors that a user can fix are printed in one line; all others keep their traceback."""

from __future__ import annotations

import os
import re
import select
import signal
import sys
from collections.abc import Callable
from typing import TextIO

TINY_WORLDS = {
    "tracelift": ("math", "code", "planner", "executor", "held_out_executor"),
    "int": ("int", "solver"),
    "weak": ("weak",),
}
"""First part of the names of files and folders that only one flag of `fastrl tiny` writes, by that flag."""
SMOL = {"smol-world": "fastrl smol", "runs/sft-smol": "fastrl train sft-smol"}
"""Command that makes a folder of the *-smol recipes, by folder."""


class Fault(RuntimeError):
    """A resource ran out; the message names the option to change. Saved files are intact."""


class EngineDied(RuntimeError):
    """An engine failed; the message names it. Nothing of the step was kept."""


class Interrupted(SystemExit):
    """Training ended on a signal after saving a checkpoint. The exit code is 130 after SIGINT, 143 after
    SIGTERM."""


def exit_code(command: Callable[[], int]) -> int:
    """Run a program's command; return its exit code, or 141 if its output pipe was closed (`| head`).

    Raises:
        SystemExit: the command exited itself, as --help does.
        Exception: any error that a user can't fix.
    """
    try:
        try:
            code = run_reporting(command)
        except SystemExit:
            sys.stdout.flush()  # the text of --help
            raise
        sys.stdout.flush()
        return code
    except (BrokenPipeError, SystemExit) as error:
        # rich turns a closed pipe into a SystemExit
        if not isinstance(error, BrokenPipeError) and not isinstance(error.__context__, BrokenPipeError):
            raise
        if not discard_unread_output() and isinstance(error, BrokenPipeError):
            raise  # another pipe, such as a grading process's
        return 128 + signal.SIGPIPE


def run_reporting(command: Callable[[], int]) -> int:
    """Run a command; if it fails with an error that the user can fix, print one line and return 2.

    Those errors start with a section in brackets, `[data] path: ...`. All others keep their traceback.
    """
    try:
        return command()
    except (ValueError, FileNotFoundError, FloatingPointError, NotImplementedError, Fault) as error:
        if not str(error).startswith("["):
            raise
        print(f"fastrl: {error}{world_hint(str(error))}", file=sys.stderr)
        return 2
    except Interrupted as interrupted:
        return int(interrupted.code or 0)
    except KeyboardInterrupt:
        print("fastrl: interrupted; run the same command again to resume", file=sys.stderr)
        return 128 + signal.SIGINT


def world_hint(message: str) -> str:
    """Return the command that makes the file in an error message; "" if it names no file of a world."""
    for folder, command in SMOL.items():
        if f"'{folder}/" in message:
            return f"; `{command}` makes it"
    found = re.search(r"'tiny-world/(\w*)", message)
    if found is None:
        return ""
    flag = next((flag for flag, names in TINY_WORLDS.items() if found[1] in names), "")
    return f"; `fastrl tiny{flag and f' --{flag} true'}` makes the tiny world"


def discard_unread_output() -> bool:
    """Redirect stdout and stderr to /dev/null if their reader is gone; return True if one was.

    Otherwise the rest of the buffer, which is written at exit, would fail again.
    """
    gone = [stream for stream in (sys.stdout, sys.stderr) if not has_reader(stream)]
    for stream in gone:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
    return bool(gone)


def has_reader(stream: TextIO) -> bool:
    """Return False if the stream is a pipe whose reader has closed it."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)  # POLLERR is always reported
    except OSError:  # the stream has no file descriptor
        return True
    return not any(event & select.POLLERR for _, event in poll.poll(0))
