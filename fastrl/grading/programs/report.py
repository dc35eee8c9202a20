"""Outcome of a program, judged by how its sandbox saw it end."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from fastrl.config.executor import ProgramConfig
from fastrl.grading.programs.compare import same_word, same_words

_SHOWN_CHARS = 300
_READ_BYTES = 16 << 10
"""Bytes at the end of standard error that are searched for the last message."""


class Outcome(str, Enum):
    """Outcome of one test, or of a program over all its tests."""

    PASSED = "passed"
    WRONG_ANSWER = "wrong_answer"
    RUNTIME_ERROR = "runtime_error"
    """The program raised, was killed, exited with a code, or met a limit on memory, processes or output."""
    COMPILE_ERROR = "compile_error"
    TIMEOUT = "timeout"
    NO_TESTS = "no_tests"
    SANDBOX_ERROR = "sandbox_error"
    """Nothing is known about the program: its sandbox broke, or the test itself does not run."""


@dataclass(frozen=True, slots=True)
class ProgramReport:
    """Result of a program over the tests of its problem."""

    outcome: Outcome
    """PASSED if all tests passed; else the outcome of the first that did not."""
    passed: int
    """Number of passed tests, also after a failure; but a time-out ends a program's tests."""
    total: int
    """Number of tests that count: at most max_tests."""
    detail: str
    """The first failure in one line; "" if there is none."""


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of one test, as the worker saw it.

    Args:
        stage: "" before the fork was confined, "s" while the program compiled, "sc" while it ran.
        limit: "time" or "memory" if the worker ended it for that.
        verdict: the checker's verdict on a function test.
    """

    stage: str
    exit_code: int
    cpu_s: float
    limit: str | None
    verdict: Mapping[str, Any] | None
    output: bytes
    errors: bytes


def output_bytes(config: ProgramConfig, expected: str) -> int:
    """Return the limit of a program's output: output_kib, or four times the expected output, if more."""
    return max(config.output_kib << 10, 4 * len(expected.encode(errors="replace")))


def judge(ending: Ending, expected: str | None, config: ProgramConfig) -> tuple[Outcome, str]:
    """Return outcome and detail of one test. expected: standard output; None: it is a function test."""
    said = _last_line(ending.errors)
    if ending.limit == "memory":
        return Outcome.RUNTIME_ERROR, _memory_limit(config)
    if ending.limit == "time" or (ending.exit_code == -signal.SIGKILL and ending.cpu_s >= config.timeout_s):
        return Outcome.TIMEOUT, f"time limit of {config.timeout_s:g} s"
    if ending.verdict is not None and ending.verdict["outcome"] == Outcome.SANDBOX_ERROR.value:
        return _judge_call(ending, said, config)  # a check that doesn't run may end before the program begins
    if not ending.stage:
        return Outcome.SANDBOX_ERROR, said or f"exit code {ending.exit_code} before the program began"
    if ending.stage == "s":
        return Outcome.COMPILE_ERROR, said or _exit(ending.exit_code)
    most = output_bytes(config, expected or "")
    if max(len(ending.output), len(ending.errors)) >= most:
        return Outcome.RUNTIME_ERROR, f"output limit of {most >> 10} KiB"
    if expected is None:
        return _judge_call(ending, said, config)
    if ending.exit_code != 0:
        return Outcome.RUNTIME_ERROR, _named(said, config) or _exit(ending.exit_code)
    words, wanted = ending.output.decode(errors="replace").split(), expected.split()
    if same_words(words, wanted, config.float_tolerance):
        return Outcome.PASSED, ""
    return Outcome.WRONG_ANSWER, _difference(words, wanted, config.float_tolerance)


def _judge_call(ending: Ending, said: str, config: ProgramConfig) -> tuple[Outcome, str]:
    if ending.verdict is None:
        return Outcome.SANDBOX_ERROR, "the checker gave no verdict"
    outcome, detail = Outcome(ending.verdict["outcome"]), str(ending.verdict["detail"])
    if outcome is Outcome.RUNTIME_ERROR:
        detail = f"{_named(said, config)}; {detail}" if said else _named(detail, config)
    return outcome, detail


def _named(said: str, config: ProgramConfig) -> str:
    """Return a message of the program, with the limit that it points to."""
    if said.startswith("MemoryError"):
        return f"{said}: {_memory_limit(config)}"
    if "Resource temporarily unavailable" in said or "can't start new thread" in said:
        return f"{said}: process limit of {config.max_processes}"
    if "File too large" in said:
        return f"{said}: file limit of {config.output_kib} KiB"
    return said


def _memory_limit(config: ProgramConfig) -> str:
    return f"memory limit of {config.memory_mib} MiB"


def _last_line(errors: bytes) -> str:
    """Return the last message in standard error; skip lines within tracebacks, which may be interleaved."""
    lines = [line for line in errors[-_READ_BYTES:].decode(errors="replace").splitlines() if line.strip()]
    ends = [line for line in lines if not line.startswith((" ", "Traceback"))]
    return (ends or lines)[-1].strip()[:_SHOWN_CHARS] if lines else ""


def _exit(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"


def _difference(words: list[str], wanted: list[str], tolerance: float) -> str:
    for place, (mine, theirs) in enumerate(zip(words, wanted, strict=False), 1):
        if not same_word(mine, theirs, tolerance):
            return f"word {place}: expected {theirs[:40]!r}, got {mine[:40]!r}"
    return f"expected {len(wanted)} words, got {len(words)}"
