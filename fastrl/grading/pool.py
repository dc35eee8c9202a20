"""Grading with a time limit that holds: math-verify runs in processes that are killed when they hang."""

from __future__ import annotations

import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from types import TracebackType
from typing import TYPE_CHECKING, get_args

from fastrl.grading.compare import Judge
from fastrl.grading.evaluated import is_evaluated
from fastrl.grading.levels import LEVELS, Extraction, LevelName, Unevaluated
from fastrl.grading.process import LOADING_TRIES, GradingProcess, Request
from fastrl.grading.rounds import Rounds
from fastrl.grading.verdict import Verdict
from fastrl.grading.votes import count_answers
from fastrl.grading.where import find_answer, gold_answer, normalize_answer

if TYPE_CHECKING:  # workers import this package without the configuration's packages
    from fastrl.config.answer import AnswerConfig


@dataclass(frozen=True, slots=True)
class Explanation:
    """How one verdict came about."""

    extraction: str
    """By which rule the answer was found; empty: it wasn't."""
    answer: str
    normal_answer: str
    normal_gold: str
    rule: str
    """What decided."""
    verdict: Verdict


class AnswerGrader:
    """Grades completions against gold answers.

    The stated answer and the gold one are compared as text and as numbers first; only where that decides
    nothing does a worker process do algebra with math-verify and sympy. Workers start when first needed, and
    import neither torch nor the main program. One that exceeds the time limit is stopped; the other pairs are
    graded all the same. One that dies is replaced, and its pair is given to another once. Pairs of a batch
    that take long share a budget (fastrl.grading.rounds); those that it doesn't suffice for are TIMEOUT.

    Args:
        num_workers: processes at most.
        timeout_s: > 0, seconds for one pair.
        batch_s: > 0, seconds for all pairs of a batch that take longer than a first slice.
        extraction: where an answer may stand; see fastrl.grading.where.find_answer. With whole_response
            math-verify alone decides, on the whole text.
        level: what is paid; see fastrl.grading.levels.
        tolerance: >= 0, relative, between numbers; for benchmarks that state one.
        unevaluated: whether a calculation is paid for its value; by_level: as the level says.
    """

    def __init__(
        self,
        num_workers: int = 2,
        timeout_s: float = 5.0,
        *,
        batch_s: float = 60.0,
        extraction: Extraction = "phrase",
        level: LevelName = "strict",
        tolerance: float = 0.0,
        unevaluated: Unevaluated = "by_level",
    ) -> None:
        if num_workers < 1:
            raise ValueError(f"[answer] num_workers: expected >= 1, got {num_workers}")
        if not timeout_s > 0:
            raise ValueError(f"[answer] timeout_s: expected > 0, got {timeout_s}")
        if not batch_s > 0:
            raise ValueError(f"[answer] batch_s: expected > 0, got {batch_s}")
        if level not in LEVELS:
            raise ValueError(f"[answer] level: expected {' or '.join(LEVELS)}, got {level!r}")
        if extraction not in get_args(Extraction):
            raise ValueError(
                f"[answer] extraction: expected {', '.join(get_args(Extraction))}, got {extraction!r}"
            )
        if not 0 <= tolerance < 1:
            raise ValueError(f"[answer] tolerance: expected a number in [0, 1), got {tolerance}")
        if unevaluated not in get_args(Unevaluated):
            raise ValueError(
                f"[answer] unevaluated: expected {', '.join(get_args(Unevaluated))}, got {unevaluated!r}"
            )
        self.num_workers = num_workers
        self.timeout_s = timeout_s
        self.batch_s = batch_s
        self.extraction: Extraction = extraction
        self.level: LevelName = level
        self.tolerance = tolerance
        self.counts: Counter[Verdict] = Counter()
        """Verdicts since the grader was made."""
        self.num_compared = 0
        """Pairs that went to a worker; equal ones of a call go once."""
        by_level = LEVELS[level].unevaluated or extraction == "whole_response"
        self.pays_unevaluated = by_level if unevaluated == "by_level" else unevaluated == "paid"
        self._judge = Judge(LEVELS[level], tolerance)
        self._workers: list[GradingProcess] = []
        self._killed_loading = 0
        self._lock = threading.Lock()
        self._finalizer = weakref.finalize(self, _kill_all, self._workers)

    @classmethod
    def of(cls, config: AnswerConfig) -> AnswerGrader:
        """Return the grader that a configuration describes."""
        return cls(
            config.workers,
            config.timeout_s,
            batch_s=config.batch_s,
            extraction=config.extraction,
            level=config.level,
            tolerance=config.tolerance,
            unevaluated=config.unevaluated,
        )

    def grade(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        """Return one verdict for each (completion text, gold answer). May be called from any thread."""
        found: list[tuple[str, str] | None] = []
        for completion, gold in pairs:
            stated = find_answer(completion, self.extraction, self.level)
            found.append(None if stated is None else (stated.text, gold_answer(gold)))
        whole = self.extraction == "whole_response"
        decided = iter(self._decide([pair for pair in found if pair is not None], whole))
        verdicts = [
            Verdict.NO_ANSWER if pair is None else self._paid(pair, *next(decided))[0] for pair in found
        ]
        with self._lock:
            self.counts.update(verdicts)
        return verdicts

    def equal(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        """Return one verdict for each pair of bare answers, as votes compare them. CORRECT: they are one."""
        return [verdict for verdict, _ in self._decide(pairs, whole=False)]

    def stated(self, completion: str) -> str | None:
        """Return the answer that a completion states in its normal form, as votes count it; None: none. Under
        whole_response, which names no answer, what the extraction phrase finds."""
        extraction = "phrase" if self.extraction == "whole_response" else self.extraction
        found = find_answer(completion, extraction, self.level)
        return None if found is None else normalize_answer(found.text)

    def votes(self, answers: Iterable[str | None]) -> dict[str, int]:
        """Return the votes of each answer; those that the grader calls equal are one. See count_answers."""
        return count_answers(
            answers, lambda pairs: [verdict is Verdict.CORRECT for verdict in self.equal(pairs)]
        )

    def explain(self, completion: str, gold: str) -> Explanation:
        """Return how the verdict on a completion comes about."""
        found = find_answer(completion, self.extraction, self.level)
        right = gold_answer(gold)
        if found is None:
            return Explanation("", "", "", normalize_answer(right), "no answer is stated", Verdict.NO_ANSWER)
        whole = self.extraction == "whole_response"
        pair = (found.text, right)
        ((verdict, rule),) = self._decide([pair], whole)
        verdict, rule = self._paid(pair, verdict, rule)
        normal = found.text if whole else normalize_answer(found.text)
        return Explanation(found.rule, found.text, normal, normalize_answer(right), rule, verdict)

    def _paid(self, pair: tuple[str, str], verdict: Verdict, rule: str) -> tuple[Verdict, str]:
        """An answer that equals the gold one, but is a calculation left undone, may earn nothing."""
        if verdict is not Verdict.CORRECT or self.pays_unevaluated or is_evaluated(*pair):
            return verdict, rule
        return Verdict.UNEVALUATED, f"{rule}; a calculation where the gold answer is a value"

    def _decide(self, pairs: Sequence[tuple[str, str]], whole: bool) -> list[tuple[Verdict, str]]:
        """Return verdict and rule of each pair; equal pairs are decided once."""
        known: dict[tuple[str, str], tuple[Verdict, str]] = {}
        asked: dict[tuple[str, str], None] = {}
        with self._lock:
            for pair in pairs:
                if pair in known or pair in asked:
                    continue
                equal = None if whole else self._judge.compare(*pair)
                if equal is None:
                    asked[pair] = None
                else:
                    known[pair] = (Verdict.CORRECT if equal else Verdict.WRONG, self._judge.rule)
            self.num_compared += len(asked)
            requests = [(*pair, self.level, self.tolerance, whole) for pair in asked]
            try:
                known |= dict(zip(asked, self._ask(requests), strict=True))
            finally:
                # after an interruption a late reply would be taken for the next pair's
                self._retire([worker for worker in self._workers if worker.task is not None])
        return [known[pair] for pair in pairs]

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

    def _ask(self, pairs: Sequence[Request]) -> list[tuple[Verdict, str]]:
        verdicts: dict[int, tuple[Verdict, str]] = {}
        rounds, left = Rounds(self.timeout_s, self.batch_s, self.num_workers), list(range(len(pairs)))
        while left and (limit_s := rounds.next_limit_s(len(left))) is not None:
            self._ask_round(pairs, left, limit_s, verdicts)
            stopped = [task for task in left if verdicts[task][0] is Verdict.TIMEOUT]
            left = stopped if limit_s < self.timeout_s else []
        verdicts |= dict.fromkeys(left, (Verdict.TIMEOUT, "the time budget of the batch"))
        return [verdicts[index] for index in range(len(pairs))]

    def _ask_round(
        self,
        pairs: Sequence[Request],
        tasks: Sequence[int],
        limit_s: float,
        verdicts: dict[int, tuple[Verdict, str]],
    ) -> None:
        """Grade these pairs within a limit each, and note what came of them."""
        waiting, pending, tried = deque(tasks), set(tasks), set[int]()
        while pending:
            while len(self._workers) < min(self.num_workers, len(pending)):
                self._workers.append(GradingProcess(self.timeout_s))
            for worker in [worker for worker in self._workers if worker.idle][: len(waiting)]:
                if worker.send(waiting[0], pairs[waiting[0]], limit_s):
                    waiting.popleft()
                else:
                    self._retire([worker])
            for task, verdict in self._collect():
                if verdict[0] is Verdict.ERROR and task not in tried:  # its worker died: another may live
                    waiting.append(task)
                    tried.add(task)
                else:
                    verdicts[task] = verdict
                    pending.remove(task)

    def _collect(self) -> list[tuple[int, tuple[Verdict, str]]]:
        """Wait for the next reply or the next time limit. Returns what came of which pair."""
        busy = [worker for worker in self._workers if not worker.idle]
        done: list[tuple[int, tuple[Verdict, str]]] = []
        if not busy:
            return done
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
                self._note_loading(worker, verdict)
            elif verdict is not None:
                rules = {Verdict.TIMEOUT: "the time limit", Verdict.ERROR: "the process died"}
                done.append((task, (verdict, rules.get(verdict, worker.rule))))
            if not worker.alive:
                self._retire([worker])
        return done

    def _note_loading(self, worker: GradingProcess, verdict: Verdict | None) -> None:
        """Raise RuntimeError where several processes in a row were killed while they loaded."""
        self._killed_loading = self._killed_loading + 1 if verdict is Verdict.ERROR else 0
        if self._killed_loading == LOADING_TRIES:
            self._killed_loading = 0
            self._workers.remove(worker)
            raise worker.cannot_load(f"{LOADING_TRIES} that were killed")

    def _retire(self, workers: Sequence[GradingProcess]) -> None:
        for worker in workers:
            worker.kill()
            self._workers.remove(worker)


def _kill_all(workers: list[GradingProcess]) -> None:
    while workers:
        workers.pop().kill()
