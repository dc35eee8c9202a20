"""Errors that a user can mend are one line; all others keep their traceback."""

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
"""Flag of `fastrl tiny` -> what the names of files begin with that it alone writes."""
SMOL = {"smol-world": "fastrl smol", "runs/sft-smol": "fastrl train sft-smol"}
"""Folder that the *-smol recipes read -> the command that makes it."""


class Fault(RuntimeError):
    """The machine had too little of something; the message tells the knob. Nothing that was saved is lost."""


class EngineDied(RuntimeError):
    """An engine failed on its own; the message tells which. Nothing of the step was kept."""


class Interrupted(SystemExit):
    """Training was told to end, and has left a checkpoint. Its code is the shell's for the signal: 130 after
    SIGINT, 143 after SIGTERM."""


def exit_code(command: Callable[[], int]) -> int:
    """Run a program's command; return its exit code, 141 if the reader of its output has gone (`| head`).

    Raises:
        SystemExit: the command ended itself, as --help does.
        Exception: any error that a user can't mend.
    """
    try:
        try:
            code = mendable(command)
        except SystemExit:
            sys.stdout.flush()  # what --help has printed
            raise
        sys.stdout.flush()
        return code
    except (BrokenPipeError, SystemExit) as error:
        # rich answers a closed pipe with a SystemExit of its own
        if not isinstance(error, BrokenPipeError) and not isinstance(error.__context__, BrokenPipeError):
            raise
        if not discard_unread_output() and isinstance(error, BrokenPipeError):
            raise  # another pipe: a grader's, a tracker's
        return 128 + signal.SIGPIPE


def mendable(command: Callable[[], int]) -> int:
    """Run a command; return 2 and print one line on stderr if it fails and the user can mend it.

    Errors that checks raise start with the place in brackets, `[data] path: ...`; those are the user's.
    Anything else keeps its traceback.
    """
    try:
        return command()
    except (ValueError, FileNotFoundError, FloatingPointError, NotImplementedError, Fault) as error:
        if not str(error).startswith("["):
            raise
        print(f"fastrl: {error}{world_hint(str(error))}", file=sys.stderr)
        return 2
    except Interrupted as left:
        return int(left.code or 0)
    except KeyboardInterrupt:
        print("fastrl: interrupted; the same command goes on from what is saved", file=sys.stderr)
        return 128 + signal.SIGINT


def world_hint(message: str) -> str:
    """Return the command that makes the file of a world that a message quotes; empty for another file."""
    for start, command in SMOL.items():
        if f"'{start}/" in message:
            return f"; `{command}` makes it"
    found = re.search(r"'tiny-world/(\w*)", message)
    if found is None:
        return ""
    flag = next((flag for flag, names in TINY_WORLDS.items() if found[1] in names), "")
    return f"; `fastrl tiny{flag and f' --{flag} true'}` makes the tiny world"


def discard_unread_output() -> bool:
    """Send stdout and stderr to nowhere if nobody reads them any more; return whether that was so for one.

    What is left in a buffer is written at exit, and would fail there once more.
    """
    gone = [stream for stream in (sys.stdout, sys.stderr) if not has_reader(stream)]
    for stream in gone:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    return bool(gone)


def has_reader(stream: TextIO) -> bool:
    """Return whether a stream can still be written to; a pipe whose reader has closed it can not."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)  # errors are reported without being asked for
    except OSError:  # no file behind it
        return True
    return not any(event & select.POLLERR for _, event in poll.poll(0))
