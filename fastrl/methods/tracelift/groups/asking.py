"""Asks a model for parseable answers: stores every answer on disk and retries unparseable ones."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from fastrl.config import WriterConfig
from fastrl.data.prompts import render_prompt
from fastrl.engine.protocol import Engine
from fastrl.methods.tracelift.groups.drafts import UnusableError
from fastrl.report.reporter import Reporter
from fastrl.runtime.distributed import Ranks
from fastrl.runtime.files import append_text
from fastrl.runtime.seeding import seed_of
from fastrl.training.progress import file_of_rank, lines_of_ranks
from fastrl.types import Message, SamplingParams

BATCH = 64
"""Answers per write to the file: the most that a kill can lose."""
RETRY_TEMPERATURE = 0.7
"""Temperature of a retry after a greedy try, which would repeat itself."""

T = TypeVar("T")
Call = tuple[str, int]
"""(key, attempt)."""


@dataclass(frozen=True, slots=True)
class Request(Generic[T]):
    """One prompt and the parser of its answer."""

    key: str
    """Unique; stored answers and seeds depend on it."""
    prompt: str
    read: Callable[[str], T]
    """Parses an answer; raises UnusableError."""


class AnswerFile:
    """Answers on disk, by key and attempt; a last line that a kill truncated is dropped.

    Every rank writes its own file and receives the other ranks' answers in gather().

    Args:
        reporter: shows progress: the answers on disk and those of this rank.
    """

    def __init__(self, path: Path, ranks: Ranks | None = None, reporter: Reporter | None = None) -> None:
        self.ranks, self.reporter, self.name = ranks or Ranks(), reporter, path.stem
        self.path = file_of_rank(path, self.ranks.rank)
        rows = [json.loads(line) for line in lines_of_ranks(path, self.ranks)]
        self.texts: dict[Call, str] = {(row["key"], row["attempt"]): row["text"] for row in rows}
        if reporter is not None:
            reporter.found(len(self.texts))
        self._fresh: dict[Call, str] = {}
        """Answers that gather() has not sent yet."""

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return this rank's share of the items."""
        own = items[self.ranks.rank :: self.ranks.size]
        if self.reporter is not None:
            self.reporter.expect(len(own))
        return own

    def watch(self, engine: Engine) -> Engine:
        """Return the engine, wrapped so that the reporter shows its samples."""
        return engine if self.reporter is None else self.reporter.watch(engine)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Time the block as time/NAME_s, NAME being the file's stem."""
        with nullcontext() if self.reporter is None else self.reporter.run.time(self.name):
            yield

    def add(self, texts: dict[Call, str]) -> None:
        """Append answers to the file."""
        rows = [{"key": key, "attempt": attempt, "text": text} for (key, attempt), text in texts.items()]
        append_text(self.path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        self.texts |= texts
        self._fresh |= texts
        if self.reporter is not None:
            self.reporter.advance(len(texts), {f"{self.name}/answers": float(len(self.texts))})

    def gather(self) -> None:
        """Exchange new answers, so that every rank has all."""
        self.texts |= dict(self.ranks.gather(list(self._fresh.items())))
        self._fresh = {}


def ask(
    build: Callable[[], Engine],
    config: WriterConfig,
    requests: Sequence[Request[T]],
    answers: AnswerFile,
    seed: int,
) -> tuple[dict[str, T], Counter[str]]:
    """Sample an answer to every request and parse it; the ranks share the requests.

    An unparseable answer is retried config.retries times with another seed; then its request is missing from
    the result. Answers in the file are reused. An answer depends only on (seed, key, attempt).

    Args:
        build: builds the engine, called only if an answer is missing; the engine sleeps afterwards.
    Returns: parsed answers by key, and counts of unparseable attempts by cause; requests without an answer
        count as "given up".
    """
    found: dict[str, T] = {}
    causes: Counter[str] = Counter()
    waiting = list(requests)
    engine: Engine | None = None
    for attempt in range(1 + config.retries):
        missing = answers.share(
            [request for request in waiting if (request.key, attempt) not in answers.texts]
        )
        for start in range(0, len(missing), BATCH):
            engine = engine or answers.watch(build())
            batch = missing[start : start + BATCH]
            with answers.timed():
                texts = _generate(engine, config, batch, attempt, seed)
            answers.add({(r.key, attempt): text for r, text in zip(batch, texts, strict=True)})
        answers.gather()
        unread: list[Request[T]] = []
        for request in waiting:
            try:
                found[request.key] = request.read(answers.texts[request.key, attempt])
            except UnusableError as error:
                causes[str(error)] += 1
                unread.append(request)
        waiting = unread
    if engine is not None:
        engine.sleep()
    if waiting:
        causes["given up"] += len(waiting)
    return found, causes


def _generate(
    engine: Engine, config: WriterConfig, batch: Sequence[Request[T]], attempt: int, seed: int
) -> list[str]:
    temperature = config.temperature or (RETRY_TEMPERATURE if attempt else 0.0)
    sampling = SamplingParams(
        max_new_tokens=config.max_new_tokens, temperature=temperature, top_p=config.top_p
    )
    messages: list[list[Message]] = [[{"role": "user", "content": request.prompt}] for request in batch]
    completions = engine.generate(
        [render_prompt(engine.tokenizer, message) for message in messages],
        sampling,
        seeds=[seed_of(seed, "ask", request.key, attempt) for request in batch],
    )
    return [samples[0].text for samples in completions]
