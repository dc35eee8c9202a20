"""Errors that a user can mend are one line; all others keep their traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable


def exit_code(command: Callable[[], int]) -> int:
    """Run a command; 2 and one line on stderr where the user can mend it.

    Errors that checks raise start with the place in brackets, `[data] path: ...`; those are the user's.
    Anything else keeps its traceback.
    """
    try:
        return command()
    except (ValueError, FileNotFoundError, FloatingPointError, NotImplementedError) as error:
        if not str(error).startswith("["):
            raise
        hint = "; `fastrl tiny` makes the tiny world" if "'tiny-world/" in str(error) else ""
        print(f"fastrl: {error}{hint}", file=sys.stderr)
        return 2
