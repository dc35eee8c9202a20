"""Shows a page on the terminal until a key is pressed, and restores the terminal on any exit."""

from __future__ import annotations

import os
import select
import shutil
import sys
import termios
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

HIDE, SHOW = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
HOME, TO_LINE_END, TO_PAGE_END = "\x1b[H", "\x1b[K", "\x1b[J"


def is_terminal() -> bool:
    """Return True if stdin and stdout are a terminal that can show a page."""
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def show_until_key(page: Callable[[int, int], Sequence[str]], every_s: float, keys: str = "qQ\x04") -> None:
    """Redraw page(columns, lines) every every_s seconds until a key of `keys` or the terminal closes.

    Args:
        page: returns printable lines that fit.
    Raises:
        KeyboardInterrupt: at Ctrl-C.
    """
    with one_key_at_a_time():
        while True:
            draw(page(*shutil.get_terminal_size()))
            ready, _, _ = select.select([sys.stdin], [], [], every_s)
            if ready and os.read(sys.stdin.fileno(), 1).decode("latin-1") in keys:  # "" if it closed
                return


def draw(lines: Sequence[str]) -> None:
    """Overwrite the previous page, which avoids flicker."""
    whole = "\r\n".join(line + TO_LINE_END for line in lines)
    sys.stdout.write(f"{HOME}{whole}{TO_PAGE_END}")
    sys.stdout.flush()


@contextmanager
def one_key_at_a_time() -> Iterator[None]:
    """Read keys without Enter or echo, on the alternate screen, and restore the terminal afterwards."""
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    sys.stdout.write(HIDE)
    try:
        yield
    finally:
        sys.stdout.write(SHOW)
        sys.stdout.flush()
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
