"""Sends metrics to metrics.jsonl, the console and trackers, only on the rank that writes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType

from fastrl.config import Config, Learns
from fastrl.config.load import to_dict
from fastrl.engine.protocol import Engine
from fastrl.report.console import EVERY_S, Console, known
from fastrl.report.pace import Activity, duration
from fastrl.report.pulse import Pulse, live
from fastrl.report.trackers import Tracker, open_trackers
from fastrl.runtime.run import Run


class Reporter:
    """Reports a stage's progress; a context manager that closes trackers and the live view on any exit.

    A training stage calls `log` per step. Other stages count units whose total grows: `found` adds units done
    by an earlier run, `expect` units to do, and `advance` units done.

    Args:
        unit: name of the counted unit, singular.
    """

    def __init__(self, run: Run, config: Config, unit: str = "step") -> None:
        self.run, self.done = run, 0
        self.total = config.train.num_steps if isinstance(config, Learns) else 0
        self.engine: Engine | None = None
        self.console: Console | None = None
        self.trackers: list[Tracker] = []
        self.pulse: Pulse | None = None
        if not isinstance(config, Learns):
            run.rewind()  # drops a last line that a kill truncated
        if run.writes:
            self.trackers = open_trackers(config.run.report_to, run.folder, to_dict(config))
            # steps of rl are long: print a line for each
            every_s = None if config.stage == "rl" else EVERY_S
            self.console = Console(self.total, unit=unit, every_s=every_s, watch=self.activity)
            self.pulse = Pulse(run, lambda: live(self.activity().doing, self.done, self.total, unit))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the step's metrics with the times of its phases, and show them."""
        self.done = step
        line = self.run.log(step, dict(metrics))
        if self.console is not None:
            self.console.log(step, line)
        numbers = {name: float(value) for name, value in line.items() if name != "step" and known(value)}
        for tracker in self.trackers:
            tracker.log(step, numbers)

    def found(self, number: int) -> None:
        """Add units that an earlier run has done."""
        self.done, self.total = self.done + number, self.total + number
        self._begin()

    def expect(self, number: int) -> None:
        """Add units that this rank has to do."""
        self.total += number
        self._begin()

    def advance(self, number: int, metrics: Mapping[str, float]) -> None:
        """Add finished units, with metrics about them."""
        if self.console is not None:
            self.console.total = self.total
        self.log(self.done + number, metrics)

    def watch(self, engine: Engine) -> Engine:
        """Show the number of tokens that the engine has sampled; return the engine."""
        self.engine = engine
        return engine

    def say(self, text: str) -> None:
        """Print a line on the console."""
        if self.console is not None:
            self.console.say(text)

    def activity(self) -> Activity:
        """Return the current phase and its duration, with the tokens sampled by a watched engine."""
        parts = [f"{self.run.phase} {duration(time.perf_counter() - self.run.since)}"]
        if self.engine is not None:
            parts.append(f"{self.engine.stats().generated_tokens} tokens sampled")
        return Activity(doing=", ".join(parts))

    def _begin(self) -> None:
        if self.console is not None:
            self.console.begin(self.done, self.total)

    def __enter__(self) -> Reporter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console is not None:
            self.console.close()
        if self.pulse is not None:
            self.pulse.close()
        for tracker in self.trackers:
            tracker.close()
