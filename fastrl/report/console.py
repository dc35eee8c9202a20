"""Progress for people: a live table on a terminal, one plain line a step in a file or a batch job."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from typing import IO, Any

from rich.console import Console as RichConsole
from rich.live import Live
from rich.table import Table

from fastrl.report.page.curves import phases_of
from fastrl.report.sparkline import sparkline

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
}


class Console:
    """Shows each step's metrics as they come.

    Args:
        num_steps: of the whole run.
        file: where to; a terminal gets the live table.
    """

    def __init__(self, num_steps: int, file: IO[str] | None = None) -> None:
        self.num_steps = num_steps
        self.rich = RichConsole(file=file or sys.stderr)
        self.history: dict[str, list[float]] = {}
        self.started = time.perf_counter()
        self.first_step: int | None = None
        self.live: Live | None = None
        if self.rich.is_terminal:
            self.live = Live(console=self.rich, auto_refresh=False)
            self.live.start()

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Show one step; eval/ metrics and those of SHOWN, others are in metrics.jsonl."""
        self.first_step = step if self.first_step is None else self.first_step
        shown = {SHOWN[name]: metrics[name] for name in SHOWN if known(metrics.get(name))}
        shown |= {name: value for name, value in metrics.items() if is_headline(name) and known(value)}
        for name, value in shown.items():
            self.history.setdefault(name, []).append(float(value))
        if self.live is not None:
            self.live.update(self.table(step), refresh=True)
        else:
            self.rich.print(
                plain_line(step, self.num_steps, shown, metrics),
                markup=False,
                highlight=False,
                soft_wrap=True,
            )

    def say(self, text: str) -> None:
        """A line of its own; above the live table on a terminal."""
        self.rich.print(text, markup=False, highlight=False, soft_wrap=True)

    def table(self, step: int) -> Table:
        table = Table(title=f"step {step} of {self.num_steps}, {self.remaining(step)}", title_justify="left")
        table.add_column("")
        table.add_column("now", justify="right")
        table.add_column("so far")
        for name, values in self.history.items():
            table.add_row(name, number(values[-1]), sparkline(values, width=40))
        return table

    def remaining(self, step: int) -> str:
        elapsed, done = time.perf_counter() - self.started, step - (self.first_step or 0)
        if done == 0:
            return f"{duration(elapsed)} so far"
        return f"{duration(elapsed)} so far, about {duration(elapsed / done * (self.num_steps - step))} to go"

    def close(self) -> None:
        if self.live is not None:
            self.live.stop()


def plain_line(step: int, num_steps: int, shown: Mapping[str, float], metrics: Mapping[str, Any]) -> str:
    """step 12/60 | reward 0.71 | ... | 1.4s"""
    parts = [f"step {step}/{num_steps}", *(f"{name} {number(value)}" for name, value in shown.items())]
    phases, _ = phases_of(list(metrics))
    seconds = sum(metrics[name] for name in phases if known(metrics[name]))
    return " | ".join([*parts, f"{seconds:.2f}s"] if seconds else parts)


HEADLINES = (
    "eval/avg@", "eval/maj@", "eval/transfer", "eval/two_stage_avg@", "eval/executor_alone_avg@",
)  # fmt: skip


def is_headline(name: str) -> bool:
    """eval/avg@4, but not its interval's ends, which the plot shows."""
    return name.startswith(HEADLINES) and name.count("/") == 1


def known(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def number(value: float) -> str:
    """Four significant digits, without an exponent where that is readable."""
    return f"{value:.4g}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.2e}"


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes}m" if hours else f"{minutes}m {rest}s" if minutes else f"{rest}s"
