"""fastrl watch RUN: show a run folder in the terminal and update it while the run goes on."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fastrl.cli.arguments import asks_help, take_flag, take_positional
from fastrl.config import check_positive
from fastrl.config.flags import parse_flags
from fastrl.report.terminal import is_terminal, show_until_key
from fastrl.report.watch import WatchedRun, page


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchOptions:
    """Show a run, or a pipeline's current stage: rewards, lengths, speed, memory, alarms, completions. Press
    q to quit. With --once, or without a terminal, print it once."""

    every_s: float = 1.0
    """Seconds between updates."""

    def __post_init__(self) -> None:
        check_positive("watch", self, "every_s")


def main(arguments: list[str]) -> int:
    """Show the run until q is pressed; with --once or without a terminal, print it once."""
    once = take_flag(arguments, "--once")
    folder = "RUN" if asks_help(arguments) else take_positional(arguments, "watch", "RUN")
    options = parse_flags(WatchOptions, None, arguments, prog="fastrl watch RUN [--once]")
    run = WatchedRun(Path(folder))

    def now(width: int, height: int) -> list[str]:
        moment = run.read()
        return page(moment, run.is_finished(moment), width, height)

    if not once and is_terminal():
        with suppress(KeyboardInterrupt):
            show_until_key(now, options.every_s)
        return 0
    size = shutil.get_terminal_size((100, 40))
    print("\n".join(now(size.columns, max(size.lines - 1, 1))))
    return 0
