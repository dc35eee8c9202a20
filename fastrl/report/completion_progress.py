"""Progress of an evaluation: completions finished out of those requested from engines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from fastrl.engine.protocol import Engine
from fastrl.report.console import EVERY_S, Console
from fastrl.report.pace import Activity


class CompletionProgress:
    """Counts requested and finished completions of the watched engines.

    Later requests add to the total, so the estimated time left covers only the requests so far.
    """

    def __init__(self) -> None:
        self.engines: list[Engine] = []
        self.doing = "loading"

    def watch(self, engine: Engine) -> Engine:
        """Count an engine's completions too; return the engine."""
        if not any(engine is known for known in self.engines):
            self.engines = [*self.engines, engine]
        return engine

    def watch_all(self, engines: Iterable[Engine]) -> None:
        for engine in engines:
            self.watch(engine)

    def __call__(self) -> Activity:
        stats = [engine.stats() for engine in self.engines]
        finished, requested = (
            sum(engine_stats.finished for engine_stats in stats),
            sum(engine_stats.requests for engine_stats in stats),
        )
        tokens = sum(engine_stats.generated_tokens for engine_stats in stats)
        return Activity(f"{self.doing}, {tokens} tokens sampled", done=finished, total=requested)


@contextmanager
def shown_completions() -> Iterator[CompletionProgress]:
    """Show the number of finished completions on stderr during the block."""
    progress = CompletionProgress()
    with Console(None, unit="completion", every_s=EVERY_S, watch=progress):
        yield progress
