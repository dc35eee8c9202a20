"""Run generated programs against their tests, in sandboxes, many tests per second."""

from __future__ import annotations

import json
import re
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import wait
from types import TracebackType

from fastrl.config.executor import ProgramConfig
from fastrl.grading.programs.cases import ProgramTests, with_body
from fastrl.grading.programs.process import NoSandboxError, ProgramProcess, Run
from fastrl.grading.programs.report import Outcome, ProgramReport, judge, output_bytes
from fastrl.grading.rounds import Rounds

__all__ = ["Outcome", "ProgramReport", "ProgramRunner", "ProgramTests", "extract_program", "sandbox_missing"]

_FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*$", re.MULTILINE)
PYTHON = {"python", "python3", "py", "py3", "pypy", "pypy3"}
PRELUDE = """
from bisect import *
from collections import *
from functools import *
from heapq import *
from itertools import *
from math import *
from string import *
from typing import *
import bisect, collections, copy, datetime, functools, heapq, itertools, json, math, operator, random, re
import statistics, string, sys
"""
"""Imports that coding sites make before a function that they call."""
_END = re.compile(r"<\|(?:im_end|endoftext|eot_id|end_of_text)\|>|</s>")

Job = tuple[str, ProgramTests]
Found = tuple[Outcome, str]


def extract_program(text: str) -> str:
    """Extract the program from a text: its last fenced block in Python, or else without a language.

    Without a fence, the text is the program; if all blocks are in other languages, it is "". Only the text
    before an end marker such as <|im_end|> counts, and a last block may lack its closing fence. If the number
    of fences is odd and the first one follows text and has no language, it closes a Python block that the
    prompt opened.
    """
    ended = _END.search(text)
    text = text[: ended.start()] if ended else text
    fences = list(_FENCE.finditer(text))
    if not fences:
        return text
    begins = [(fence.end() + 1, fence.group(1).lower()) for fence in fences]
    stops = [fence.start() for fence in fences]
    opened_before = len(fences) % 2 == 1 and not begins[0][1] and text[: stops[0]].strip() != ""
    if opened_before:
        begins, stops = [(0, "python"), *begins], stops
    else:
        stops = [*stops[1:], len(text)]
    blocks = [
        (language, text[begin:stop])
        for (begin, language), stop in list(zip(begins, stops, strict=False))[::2]
    ]
    python = [block for language, block in blocks if language in PYTHON]
    unnamed = [block for language, block in blocks if not language]
    return (python or unnamed or [""])[-1]


class ProgramRunner:
    """Runner of programs against their tests, num_workers at once.

    Each worker enters its sandbox (fastrl/grading/programs/sandbox.py) once and runs each test in a fork. A
    fork sees nothing of other tests and has only the standard library (and numpy, if configured). Workers
    start when first needed. One that dies or is silent past a test's time limit is replaced, and the test is
    retried once in another worker; then it is SANDBOX_ERROR. Other tests are not affected. Slow tests of a
    batch share a time budget (fastrl.grading.rounds); those that exceed it are TIMEOUT.

    Raises, when first run:
        NoSandboxError, a ValueError: no sandbox works here, and run_unsandboxed_code is not set.
    """

    def __init__(self, config: ProgramConfig) -> None:
        self.config = config
        self.counts: Counter[Outcome] = Counter()
        """Number of programs with each outcome since the runner was created."""
        self.num_run = 0
        """Number of programs that ran; equal jobs of a call run once."""
        self._workers: list[ProgramProcess] = []
        self._lock = threading.Lock()
        self._finalizer = weakref.finalize(self, _kill_all, self._workers)

    def run(self, jobs: Sequence[Job]) -> list[ProgramReport]:
        """Return one report for each (program, tests). Thread-safe."""
        distinct = list(dict.fromkeys(jobs))
        with self._lock:
            self.num_run += len(distinct)
            try:
                found = self._run(distinct)
            except NoSandboxError:
                _kill_all(self._workers)
                raise
            finally:
                # after an interruption a late reply would be mistaken for the next test's
                self._retire([worker for worker in self._workers if worker.task is not None])
            reports = {job: self._report(job, found[index]) for index, job in enumerate(distinct)}
            self.counts.update(reports[job].outcome for job in jobs)
        return [reports[job] for job in jobs]

    def close(self) -> None:
        """End the workers; running again starts new ones."""
        with self._lock:
            _kill_all(self._workers)

    def __enter__(self) -> ProgramRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, jobs: Sequence[Job]) -> list[dict[int, Found]]:
        """Run all jobs; return for each its tests' (outcome, detail) by test number.

        After a compile error or a time-out, a program's later tests don't run.
        """
        found: list[dict[int, Found]] = [{} for _ in jobs]
        rounds = Rounds(self.config.timeout_s, self.config.batch_s, self.config.num_workers)
        left = [(job, test) for job, (_, tests) in enumerate(jobs) for test in range(self._num_tests(tests))]
        while left and (limit_s := rounds.next_limit_s(len(left))) is not None:
            self._run_round(jobs, left, replace(self.config, timeout_s=limit_s), found)
            stopped = [(job, test) for job, test in left if _stopped(found[job], test)]
            left = stopped if limit_s < self.config.timeout_s else []
            for job, test in left:
                found[job].pop(test, None)
        for job, test in left:
            found[job][test] = (Outcome.TIMEOUT, "time budget of the batch")
        return found

    def _run_round(
        self,
        jobs: Sequence[Job],
        tests: Sequence[tuple[int, int]],
        config: ProgramConfig,
        found: list[dict[int, Found]],
    ) -> None:
        """Run these tests within the limits of a configuration, and add to `found`."""
        waiting, tried = deque(tests), set[tuple[int, int]]()
        while waiting or any(worker.task for worker in self._workers):
            busy = sum(worker.task is not None for worker in self._workers)
            while len(self._workers) < min(self.config.num_workers, busy + len(waiting)):
                self._workers.append(ProgramProcess(self.config))
            for worker in [worker for worker in self._workers if worker.idle]:
                while waiting and _is_over(found[waiting[0][0]], waiting[0][1]):
                    waiting.popleft()
                if not waiting:
                    break
                job, test = waiting[0]
                if worker.send(waiting[0], _run_of(*jobs[job], test, config), config.timeout_s):
                    waiting.popleft()
                else:
                    self._retire([worker])
            for job, test in self._collect(jobs, found, config):
                if (job, test) not in tried:  # its worker died: retry once
                    del found[job][test]
                    waiting.append((job, test))
                tried.add((job, test))

    def _collect(
        self, jobs: Sequence[Job], found: list[dict[int, Found]], config: ProgramConfig
    ) -> list[tuple[int, int]]:
        """Wait for the next reply or time limit, and add to `found`; return the tests whose worker died."""
        busy = [worker for worker in self._workers if not worker.idle]
        died: list[tuple[int, int]] = []
        if not busy:
            return died
        patience = min(worker.deadline for worker in busy) - time.monotonic()
        answered = wait([worker.fileno() for worker in busy], max(0.0, patience))
        for worker in busy:
            task = worker.task
            if worker.fileno() in answered:
                ending = worker.receive()
            elif time.monotonic() >= worker.deadline:
                worker.expire()
                ending = None
            else:
                continue
            if task is None:
                continue
            job, test = task
            if ending is None:
                found[job][test] = (Outcome.SANDBOX_ERROR, "the worker died or fell silent")
                died.append(task)
                self._retire([worker])
            else:
                cases = jobs[job][1].cases
                printed = cases and not jobs[job][1].entry_point
                found[job][test] = judge(ending, cases[test][1] if printed else None, config)
        return died

    def _report(self, job: Job, found: dict[int, Found]) -> ProgramReport:
        total = self._num_tests(job[1])
        # don't count later tests that other workers ran at the same time as the test that ended the program
        kept = [outcome for test, (outcome, _) in found.items() if not _is_over(found, test)]
        passed = kept.count(Outcome.PASSED)
        if not total:
            return ProgramReport(Outcome.NO_TESTS, 0, 0, "")
        for test in sorted(found):
            outcome, detail = found[test]
            if outcome is not Outcome.PASSED:
                return ProgramReport(outcome, passed, total, detail)
        return ProgramReport(Outcome.PASSED, passed, total, "")

    def _num_tests(self, tests: ProgramTests) -> int:
        return min(len(tests), self.config.max_tests)

    def _retire(self, workers: Sequence[ProgramProcess]) -> None:
        for worker in workers:
            self._workers.remove(worker)
            worker.kill()


def sandbox_missing() -> str | None:
    """Run a small program; return the reason that no sandbox works on this machine, or None if one does."""
    tests = ProgramTests(cases=(("", "ok"),))
    with ProgramRunner(ProgramConfig(num_workers=1, timeout_s=10.0)) as runner:
        try:
            (report,) = runner.run([("print('ok')", tests)])
        except NoSandboxError as error:
            return error.reason
    return None if report.outcome is Outcome.PASSED else f"{report.outcome.value}: {report.detail}"


def _is_over(found: dict[int, Found], test: int) -> bool:
    """Return whether an earlier test has ended the program with a compile error or a time-out."""
    ended = (Outcome.COMPILE_ERROR, Outcome.TIMEOUT)
    return any(outcome in ended and before < test for before, (outcome, _) in found.items())


def _stopped(found: dict[int, Found], test: int) -> bool:
    """Return whether a test ran out of time, or was skipped because an earlier one did."""
    if any(outcome is Outcome.COMPILE_ERROR for outcome, _ in found.values()):
        return False
    return test not in found or found[test][0] is Outcome.TIMEOUT


def _run_of(program: str, tests: ProgramTests, test: int, config: ProgramConfig) -> Run:
    given, wanted = tests.cases[test] if tests.cases else ("", "")
    most = output_bytes(config, wanted)
    if not tests.entry_point:
        return Run((program,), given.encode(), None, most)
    if tests.cases:
        call = {"call": (given, wanted), "tolerance": config.float_tolerance}
        return Run((program,), json.dumps(call).encode(), tests.entry_point, most, PRELUDE)
    check = {"prompt": with_body(tests.prompt), "test": tests.check, "entry_point": tests.entry_point}
    return Run(_sources(program, tests), json.dumps(check).encode(), tests.entry_point, most)


def _sources(program: str, tests: ProgramTests) -> tuple[str, ...]:
    """Return the sources to run: prompt, then program, if the program defines the function.

    Such a program may use the prompt's imports and helpers. Any other text continues the prompt, as in
    HumanEval.
    """
    name = re.escape(tests.entry_point.partition("().")[0])
    if re.search(rf"^(?:(?:async\s+)?def\s+{name}\b|class\s+{name}\b|{name}\s*[:=])", program, re.MULTILINE):
        return (with_body(tests.prompt), program)
    return (tests.prompt + program,)


def _kill_all(workers: list[ProgramProcess]) -> None:
    while workers:
        workers.pop().kill()
