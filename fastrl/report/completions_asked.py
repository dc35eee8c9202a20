"""How far engines are with the completions that they were asked for: the progress of an evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from fastrl.engine.protocol import Engine
from fastrl.report.console import EVERY_S, Console
from fastrl.report.pace import Glance


class CompletionsAsked:
    """Counts what engines were asked for, and what they have finished. Engines that are asked later add to
    the total, so the time left is that of what has been asked so far."""

    def __init__(self) -> None:
        self.engines: list[Engine] = []
        self.doing = "loading"

    def watch(self, engine: Engine) -> Engine:
        """Count an engine's completions too; returns it."""
        if not any(engine is each for each in self.engines):
            self.engines = [*self.engines, engine]
        return engine

    def watch_all(self, engines: Iterable[Engine]) -> None:
        for engine in engines:
            self.watch(engine)

    def __call__(self) -> Glance:
        stats = [engine.stats() for engine in self.engines]
        finished, asked = sum(each.finished for each in stats), sum(each.requests for each in stats)
        tokens = sum(each.generated_tokens for each in stats)
        return Glance(f"{self.doing}, {tokens} tokens sampled", done=finished, total=asked)


@contextmanager
def shown_completions() -> Iterator[CompletionsAsked]:
    """Show on stderr how many completions are done while the block works."""
    asked = CompletionsAsked()
    with Console(None, unit="completion", every_s=EVERY_S, watch=asked):
        yield asked
