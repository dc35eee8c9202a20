"""Collects single requests into batches for an engine; verl sends one request at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Batcher(Generic[Item, Answer]):
    """Batches awaited calls: `answer = await batcher(item)`.

    Items that arrive within wait_s go to one call of `answer`. Calls run one after another on a separate
    thread. An exception of a call is raised for each of its items.

    Args:
        answer: maps a list of items to as many answers, in order.
        wait_s: longest time that an item waits for others, in seconds.
        most: largest batch; a full batch is sent at once.
    """

    def __init__(
        self, answer: Callable[[list[Item]], Sequence[Answer]], wait_s: float = 0.05, most: int = 1024
    ) -> None:
        if not wait_s >= 0 or most < 1:
            raise ValueError(f"[batcher] wait_s, most: expected >= 0 and >= 1, got {wait_s} and {most}")
        self.answer, self.wait_s, self.most = answer, wait_s, most
        self._waiting: list[tuple[Item, asyncio.Future[Answer]]] = []
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batcher")
        self._timer: asyncio.TimerHandle | None = None

    async def __call__(self, item: Item) -> Answer:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append((item, future))
        if len(self._waiting) >= self.most:
            self._send(loop)
        elif self._timer is None:
            self._timer = loop.call_later(self.wait_s, self._send, loop)
        return await future

    def _send(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start a call with the waiting items."""
        if self._timer is not None:
            self._timer.cancel()
        waiting, self._waiting, self._timer = self._waiting, [], None
        work = loop.run_in_executor(self._thread, self.answer, [item for item, _ in waiting])
        work.add_done_callback(lambda done: set_results(done, [future for _, future in waiting]))


def set_results(done: asyncio.Future[Any], futures: Sequence[asyncio.Future[Any]]) -> None:
    """Set the call's answers or its exception on the futures that are not cancelled."""
    error = done.exception()
    if error is None and len(done.result()) != len(futures):
        error = RuntimeError(f"[batcher] answers: expected {len(futures)}, got {len(done.result())}")
    answers = [None] * len(futures) if error is not None else done.result()
    for future, answer in zip(futures, answers, strict=True):
        if future.cancelled():
            continue
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(answer)
