"""Grade with a hard time limit: math-verify runs in processes that are killed when they hang."""

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
    """The steps that led to one verdict."""

    extraction: str
    """Rule that found the answer; empty: none was found."""
    answer: str
    normal_answer: str
    normal_gold: str
    rule: str
    """Rule that decided."""
    verdict: Verdict


class AnswerGrader:
    """Grader of completions against gold answers.

    The stated answer and the gold answer are first compared as text and as numbers. Only if that is not
    conclusive, a worker process does algebra with math-verify and sympy. Workers start when first needed, and
    import neither torch nor the main program. A worker past the time limit is stopped; the other pairs are
    still graded. A worker that dies is replaced, and its pair is retried once. Slow pairs of a batch share a
    time budget (fastrl.grading.rounds); those that exceed it are TIMEOUT.

    Args:
        num_workers: maximum number of processes.
        timeout_s: > 0, seconds for one pair.
        batch_s: > 0, seconds for all pairs of a batch that take longer than the first slice.
        extraction: see fastrl.grading.where.find_answer. With whole_response only math-verify decides, on the
            whole text.
        level: see fastrl.grading.levels.
        tolerance: >= 0, relative, between numbers; for benchmarks that state one.
        unevaluated: accept a calculation for its value (paid) or not (unpaid); by_level: as the level says.
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
        """Number of verdicts of each kind since the grader was created."""
        self.num_compared = 0
        """Number of pairs sent to workers; equal pairs of a call count once."""
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
        """Return one verdict for each (completion text, gold answer). Thread-safe."""
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
        """Return one verdict for each pair of bare answers, as votes compare them. CORRECT: equal."""
        return [verdict for verdict, _ in self._decide(pairs, whole=False)]

    def stated(self, completion: str) -> str | None:
        """Return the normalised answer that a completion states, as votes count it; None: it states none.

        whole_response extracts no answer, so `phrase` is used instead.
        """
        extraction = "phrase" if self.extraction == "whole_response" else self.extraction
        found = find_answer(completion, extraction, self.level)
        return None if found is None else normalize_answer(found.text)

    def stating(self, answer: str) -> str:
        """Return a completion that states an answer in a box, where `grade` looks for it."""
        thought = "<think></think>" if self.extraction == "boxed_after_thought" else ""
        return f"{thought}\\boxed{{{answer}}}"

    def votes(self, answers: Iterable[str | None]) -> dict[str, int]:
        """Count the votes of each answer; equal answers are counted together, see count_answers."""
        return count_answers(
            answers, lambda pairs: [verdict is Verdict.CORRECT for verdict in self.equal(pairs)]
        )

    def explain(self, completion: str, gold: str) -> Explanation:
        """Grade one completion and return the steps that led to its verdict."""
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
        """Turn CORRECT into UNEVALUATED for a calculation left undone, unless these are accepted."""
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
                # after an interruption a late reply would be mistaken for the next pair's
                self._retire([worker for worker in self._workers if worker.task is not None])
        return [known[pair] for pair in pairs]

    def close(self) -> None:
        """End the worker processes; grading again starts new ones."""
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
        """Grade these pairs with a time limit for each, and add to `verdicts`."""
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
                if verdict[0] is Verdict.ERROR and task not in tried:  # its worker died: retry once
                    waiting.append(task)
                    tried.add(task)
                else:
                    verdicts[task] = verdict
                    pending.remove(task)

    def _collect(self) -> list[tuple[int, tuple[Verdict, str]]]:
        """Wait for the next reply or time limit; return (pair, (verdict, rule)) for those that are done."""
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
        """Raise RuntimeError if LOADING_TRIES processes in a row were killed while they loaded."""
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
