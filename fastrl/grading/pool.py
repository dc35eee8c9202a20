"""Grading with a time limit that holds: math-verify runs in processes that are killed when they hang."""

from __future__ import annotations

import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Sequence
from multiprocessing.connection import wait
from types import TracebackType

from fastrl.grading.answer import exact_verdict, extract_answer, last_boxed, normalize_answer
from fastrl.grading.process import LOADING_TRIES, GradingProcess
from fastrl.grading.verdict import Verdict


class AnswerGrader:
    """Grades completions against gold answers.

    The stated answer and the gold one are compared as text and as numbers first; only where that decides
    nothing does a worker process run math-verify. Workers start when first needed, and import neither torch
    nor the main program. One that exceeds the time limit is killed and replaced; the other pairs are graded
    all the same. One that dies is replaced, and its pair is given to another once more.

    Args:
        num_workers: processes at most.
        timeout_s: > 0, seconds for one pair.
        allow_last_number: a completion without a box or an answer phrase answers with its last number.
    """

    def __init__(
        self, num_workers: int = 2, timeout_s: float = 5.0, *, allow_last_number: bool = False
    ) -> None:
        if num_workers < 1:
            raise ValueError(f"[verify] num_workers: expected >= 1, got {num_workers}")
        if not timeout_s > 0:
            raise ValueError(f"[verify] timeout_s: expected > 0, got {timeout_s}")
        self.num_workers = num_workers
        self.timeout_s = timeout_s
        self.allow_last_number = allow_last_number
        self.counts: Counter[Verdict] = Counter()
        """Verdicts since the grader was made."""
        self.num_compared = 0
        """Pairs that went to math-verify; equal ones of a call go once."""
        self._workers: list[GradingProcess] = []
        self._killed_loading = 0
        self._lock = threading.Lock()
        self._finalizer = weakref.finalize(self, _kill_all, self._workers)

    def grade(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        """One verdict for each (completion text, gold answer). May be called from any thread."""
        verdicts: list[Verdict | None] = [None] * len(pairs)
        undecided: dict[tuple[str, str], list[int]] = {}
        for index, (completion, gold) in enumerate(pairs):
            answer = extract_answer(completion, allow_last_number=self.allow_last_number)
            if answer is None:
                verdicts[index] = Verdict.NO_ANSWER
                continue
            pair = (normalize_answer(answer), normalize_answer(last_boxed(gold) or gold))
            equal = exact_verdict(*pair)
            if equal is None:
                undecided.setdefault(pair, []).append(index)
            else:
                verdicts[index] = Verdict.CORRECT if equal else Verdict.WRONG
        for indexes, verdict in zip(undecided.values(), self.compare(list(undecided)), strict=True):
            for index in indexes:
                verdicts[index] = verdict
        decided = [verdict for verdict in verdicts if verdict is not None]
        with self._lock:
            self.counts.update(decided)
        return decided

    def compare(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        """math-verify alone, on bare (answer, gold answer) pairs."""
        with self._lock:
            self.num_compared += len(pairs)
            try:
                return self._compare(pairs)
            finally:
                # after an interruption a late reply would be taken for the next pair's
                self._retire([worker for worker in self._workers if worker.task is not None])

    def close(self) -> None:
        """Ends the worker processes; grading again starts new ones."""
        with self._lock:
            _kill_all(self._workers)

    def __enter__(self) -> AnswerGrader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _compare(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        waiting = deque(range(len(pairs)))
        tried: set[int] = set()
        verdicts: dict[int, Verdict] = {}
        while len(verdicts) < len(pairs):
            while len(self._workers) < min(self.num_workers, len(pairs) - len(verdicts)):
                self._workers.append(GradingProcess(self.timeout_s))
            for worker in [worker for worker in self._workers if worker.idle][: len(waiting)]:
                if worker.send(waiting[0], pairs[waiting[0]]):
                    waiting.popleft()
                else:
                    self._retire([worker])
            for task in self._collect(verdicts):
                if task not in tried:  # its worker died: another may live
                    del verdicts[task]
                    waiting.append(task)
                tried.add(task)
        return [verdicts[index] for index in range(len(pairs))]

    def _collect(self, verdicts: dict[int, Verdict]) -> list[int]:
        """Wait for the next reply or the next time limit, and note what came of it. Returns the tasks whose
        worker died."""
        busy = [worker for worker in self._workers if not worker.idle]
        died: list[int] = []
        if not busy:
            return died
        patience = min(worker.deadline for worker in busy) - time.monotonic()
        answered = wait([worker.replies.fileno() for worker in busy], max(0.0, patience))
        for worker in busy:
            task = worker.task
            if worker.replies.fileno() in answered:
                verdict = worker.receive()
            elif time.monotonic() >= worker.deadline:
                verdict = worker.expire()
            else:
                continue
            if task is None:
                self._killed_loading = self._killed_loading + 1 if verdict is Verdict.ERROR else 0
                if self._killed_loading == LOADING_TRIES:
                    self._killed_loading = 0
                    self._workers.remove(worker)
                    raise worker.cannot_load(f"{LOADING_TRIES} that were killed")
            elif verdict is not None:
                verdicts[task] = verdict
                died += [task] if verdict is Verdict.ERROR else []
            if verdict in (Verdict.TIMEOUT, Verdict.ERROR):
                self._retire([worker])
        return died

    def _retire(self, workers: Sequence[GradingProcess]) -> None:
        for worker in workers:
            worker.kill()
            self._workers.remove(worker)


def _kill_all(workers: list[GradingProcess]) -> None:
    while workers:
        workers.pop().kill()
