"""Progress on stderr: a live view on a terminal, plain lines in a file or batch job."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from threading import Event, RLock, Thread
from types import TracebackType
from typing import IO, Any, TypeGuard

from rich.console import Console as RichConsole
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fastrl.report.pace import Activity, Pace
from fastrl.report.page.curves import phases_of
from fastrl.report.sparkline import sparkline

EVERY_S = 5.0
"""Seconds between plain lines."""
REFRESH_S = 0.5
"""Seconds between updates of the live view."""
SHOWN = {
    "reward": "reward",
    "rewards/answer/mean": "answer",
    "rewards/transfer/mean": "transfer",
    "frac_reward_zero_std": "flat groups",
    "completions/mean_length": "length",
    "completions/clipped_ratio": "clipped",
    "entropy": "entropy",
    "kl": "kl",
    "loss": "loss",
    "grad_norm": "grad norm",
    "pair_accuracy": "pairs right",
    "eval/loss": "held-out loss",
    "eval/perplexity": "perplexity",
    "eval/pair_accuracy": "held-out pairs",
    "accuracy": "right",
    "unfinished": "unfinished",
    "candidates": "candidates",
    "selected": "selected",
}


class Console:
    """Shows progress and each step's metrics. Close it, or use it in a with statement.

    A terminal gets a line with rate and time left, updated by a thread, and a table of the metrics; a file or
    pipe gets plain lines. Only `log` takes time on the caller's thread.

    Args:
        total: units of the whole work; None: not known yet.
        file: output; None: stderr.
        unit: name of the counted unit, singular.
        every_s: seconds between plain lines, printed even if nothing is logged; None: one line per `log`.
        watch: called by the thread for the current state; None as its result skips the update.
    """

    def __init__(
        self, total: int | None, file: IO[str] | None = None, *, unit: str = "step",
        every_s: float | None = None, watch: Callable[[], Activity | None] = Activity,
    ) -> None:  # fmt: skip
        self.total, self.unit, self.every_s, self.watch = total, unit, every_s, watch
        self.rich = RichConsole(file=file or sys.stderr)
        self.history: dict[str, list[float]] = {}
        self.latest: tuple[Mapping[str, float], Mapping[str, Any]] = {}, {}
        self.done, self.pace, self.printed = 0, Pace(unit), time.perf_counter()
        self.printed_done: int | None = None
        """Units done at the last plain line."""
        self.lock, self.stopped = RLock(), Event()
        self.live: Live | None = None
        if self.rich.is_terminal and not self.rich.is_dumb_terminal:
            # prints to stdout go above the live view only if stdout is the same terminal
            self.live = Live(console=self.rich, auto_refresh=False, redirect_stdout=sys.stdout.isatty())
            self.live.start()
        self.thread = Thread(target=self._refresh_loop, daemon=True, name="progress")
        if self.live is not None or every_s is not None:
            self.thread.start()

    def begin(self, done: int, total: int | None) -> None:
        """Set the units done and the total; rate and time left count from here."""
        with self.lock:
            self.done, self.total = done, total
            self.pace.begin(done)

    def log(self, done: int, metrics: Mapping[str, Any]) -> None:
        """Show one step's eval/ metrics and those in SHOWN; metrics.jsonl has all of them."""
        shown = {SHOWN[name]: metrics[name] for name in SHOWN if known(metrics.get(name))}
        shown |= {name: value for name, value in metrics.items() if is_headline(name) and known(value)}
        with self.lock:
            if self.pace.first is None:
                self.pace.begin(done)
            self.done, self.latest = done, (shown, metrics)
            for name, value in shown.items():
                self.history.setdefault(name, []).append(float(value))
            if self.live is None and (any(map(is_headline, metrics)) or done == self.total or self._is_due()):
                self._print(Activity())

    def say(self, text: str) -> None:
        """Print a line, on a terminal above the live view."""
        self.rich.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Show the final state; the last live view stays on the terminal."""
        self.stopped.set()
        if self.thread.is_alive():
            self.thread.join()
        if self.live is not None or self.every_s is not None:
            self._update(last=True)
        if self.live is not None:
            self.live.stop()

    def __enter__(self) -> Console:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _refresh_loop(self) -> None:
        while not self.stopped.wait(REFRESH_S):
            if self.live is not None or self._is_due():
                self._update()

    def _is_due(self) -> bool:
        return self.every_s is None or time.perf_counter() - self.printed >= self.every_s

    def _update(self, last: bool = False) -> None:
        """Show the current state; the last plain line is skipped if nothing was done since the previous."""
        activity = self.watch()
        if activity is None:
            return
        with self.lock:
            if activity.done is not None:
                if self.pace.first in (None, activity.done):  # the rate excludes start-up
                    self.pace.begin(activity.done)
                self.done, self.total = activity.done, activity.total
            if self.live is not None:
                self.live.update(self.view(activity), refresh=True)
            elif not last or self.done != self.printed_done:
                self._print(activity)

    def view(self, activity: Activity) -> Group:
        """Return the progress line, cut to the terminal's width, and the table of logged metrics."""
        of = "" if self.total is None else f" of {self.total}"
        parts = [f"{self.unit} {self.done}{of}", *self.pace.text(self.done, self.total), activity.doing]
        line = Text(", ".join(filter(None, parts)), no_wrap=True, overflow="ellipsis")
        return Group(line, self.table()) if self.history else Group(line)

    def table(self) -> Table:
        table = Table()
        table.add_column("")
        table.add_column("now", justify="right")
        table.add_column("so far")
        for name, values in self.history.items():
            table.add_row(name, number(values[-1]), sparkline(values, width=40))
        return table

    def _print(self, activity: Activity) -> None:
        shown, metrics = self.latest
        line = plain_line(self.done, self.total, shown, metrics, self.unit)
        if self.every_s is not None:
            line = " | ".join(filter(None, [line, *self.pace.text(self.done, self.total), activity.doing]))
        self.printed, self.printed_done = time.perf_counter(), self.done
        self.say(line)


def plain_line(
    done: int, total: int | None, shown: Mapping[str, float], metrics: Mapping[str, Any], unit: str = "step"
) -> str:
    """Format a line such as `step 12/60 | reward 0.71 | ... | 1.4s`."""
    counted = f"{unit} {done}" if total is None else f"{unit} {done}/{total}"
    parts = [counted, *(f"{name} {number(value)}" for name, value in shown.items())]
    phases, _ = phases_of(list(metrics))
    seconds = sum(metrics[name] for name in phases if known(metrics[name]))
    return " | ".join([*parts, f"{seconds:.2f}s"] if seconds else parts)


HEADLINES = (
    "eval/avg@", "eval/maj@", "eval/transfer", "eval/two_stage_avg@", "eval/executor_alone_avg@",
)  # fmt: skip


def is_headline(name: str) -> bool:
    """Return True for eval/avg@4 and the like, without their intervals' bounds."""
    return name.startswith(HEADLINES) and name.count("/") == 1


def known(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


def number(value: float) -> str:
    """Format with four significant digits, with an exponent below 1e-3 and from 1e5."""
    return f"{value:.4g}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.2e}"
