"""Errors that a user can mend are one line; all others keep their traceback."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable


class Fault(RuntimeError):
    """The machine had too little of something; the message tells the knob. Nothing that was saved is lost."""


class EngineDied(RuntimeError):
    """An engine failed on its own; the message tells which. Nothing of the step was kept."""


class Interrupted(SystemExit):
    """Training was told to end, and has left a checkpoint. Its code is the shell's for the signal: 130 after
    SIGINT, 143 after SIGTERM."""


def exit_code(command: Callable[[], int]) -> int:
    """Run a command; 2 and one line on stderr where the user can mend it.

    Errors that checks raise start with the place in brackets, `[data] path: ...`; those are the user's.
    Anything else keeps its traceback.
    """
    try:
        return command()
    except (ValueError, FileNotFoundError, FloatingPointError, NotImplementedError, Fault) as error:
        if not str(error).startswith("["):
            raise
        hint = "; `fastrl tiny` makes the tiny world" if "'tiny-world/" in str(error) else ""
        print(f"fastrl: {error}{hint}", file=sys.stderr)
        return 2
    except Interrupted as left:
        return int(left.code or 0)
    except KeyboardInterrupt:
        print("fastrl: interrupted; the same command goes on from what is saved", file=sys.stderr)
        return 128 + signal.SIGINT
