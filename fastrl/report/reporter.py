"""Where a step's metrics go: metrics.jsonl, the console, trackers; on the rank that writes alone."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType

from fastrl.config import RlConfig
from fastrl.config.load import to_dict
from fastrl.report.console import Console, known
from fastrl.report.trackers import Tracker, open_trackers
from fastrl.runtime.run import Run


class Reporter:
    """Open while a run goes on; closes trackers and the live table whatever ends it."""

    def __init__(self, run: Run, config: RlConfig) -> None:
        self.run = run
        self.console: Console | None = None
        self.trackers: list[Tracker] = []
        if run.writes:
            self.trackers = open_trackers(config.run.report_to, run.folder, to_dict(config))
            self.console = Console(config.train.num_steps)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the step's line, with the time of its phases, and show it."""
        line = self.run.log(step, dict(metrics))
        if self.console is not None:
            self.console.log(step, line)
        numbers = {name: float(value) for name, value in line.items() if name != "step" and known(value)}
        for tracker in self.trackers:
            tracker.log(step, numbers)

    def say(self, text: str) -> None:
        """A line for people, beside the steps."""
        if self.console is not None:
            self.console.say(text)

    def __enter__(self) -> Reporter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console is not None:
            self.console.close()
        for tracker in self.trackers:
            tracker.close()
