"""Roles of a worker's fork: run a program, or check a program that runs in another fork."""

from __future__ import annotations

import atexit
import builtins
import fcntl
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import ModuleType, TracebackType
from typing import Any, NoReturn

from fastrl.grading.programs.compare import check_call
from fastrl.grading.programs.sandbox import Limits, Namespaces, PlainProcesses
from fastrl.grading.programs.values import from_line, to_line

STAGE, SOURCE, CALLS, REPLIES = 3, 4, 5, 6
"""Descriptors of a program's fork, after the standard ones."""
VERDICT, TEST = 3, 4
"""Descriptors of a checker's fork. It reads replies from CALLS and writes calls to REPLIES."""
_SHOWN_CHARS = 300


class Unsendable(TypeError):
    """The test passes an argument that isn't plain data."""


def run_program(
    box: Namespaces | PlainProcesses, limits: Limits, descriptors: Sequence[int], function: bool
) -> None:
    """Run a program as __main__; for a function test, run it as a module, then answer calls."""
    keep(descriptors)
    box.confine(limits)
    os.write(STAGE, b"s")
    job = json.loads(_take(SOURCE))
    # don't inherit this file's __future__ imports
    codes = [compile(source, "<program>", "exec", dont_inherit=True) for source in job["sources"]]
    os.write(STAGE, b"c")
    os.close(STAGE)
    module = ModuleType("program" if function else "__main__")
    sys.modules[module.__name__] = module
    sys.excepthook = show_and_end
    if job["prelude"]:
        # as built-in names, so that the module's own names are only the program's
        names: dict[str, Any] = {}
        exec(job["prelude"], names)
        module.__dict__["__builtins__"] = names | vars(builtins)
    for code in codes:
        exec(code, module.__dict__)
    if function:
        answer_calls(function_of(module, job["entry_point"]))
    end_early(0)


def function_of(module: ModuleType, name: str) -> Callable[..., object]:
    """Return the program's function `name`; a method for Solution().name, or if there is no such function."""
    owner, _, method = name.rpartition("().")
    if not owner and not hasattr(module, name) and hasattr(module, "Solution"):
        owner, method = "Solution", name
    if not hasattr(module, owner or name):
        raise NameError(f"the program defines no {owner or name}")
    found: Callable[..., object] = getattr(getattr(module, owner)() if owner else module, method)
    return found


def answer_calls(function: Callable[..., object]) -> None:
    """Read lines [arguments, keywords]; write ["returned", value] or ["raised", kind, message] for each."""
    with open(CALLS, "rb") as calls, open(REPLIES, "wb", buffering=0) as replies:
        for call in calls:
            arguments, keywords = from_line(call)
            try:
                line = to_line(["returned", function(*arguments, **keywords)])
            except Exception as error:  # any kind: the check decides whether it is right
                line = to_line(["raised", type(error).__name__, str(error)[:_SHOWN_CHARS]])
            replies.write(line)


def show_and_end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an exception and exit with 1: the sys.excepthook of a program."""
    sys.__excepthook__(kind, error, trace)
    end_early(1)


def end_early(code: int) -> None:
    """Exit at once if no thread and no exit handler is left, since the interpreter's own exit is slower."""
    if threading.active_count() == 1 and not atexit._ncallbacks():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run_check(box: Namespaces | PlainProcesses, limits: Limits, descriptors: Sequence[int]) -> None:
    """Run the test's check, or call and compare, with a Caller as the function; report to the worker."""
    keep(descriptors)
    box.part()
    box.confine(limits)
    job = json.loads(_take(TEST))
    report = Report(job.get("test", ""))
    sys.excepthook = report.failure
    caller = Caller(limits.file_bytes, report)
    if "call" in job:
        report.began = True
        given, wanted = job["call"]
        check_call(caller, given, wanted, job["tolerance"])
    else:
        namespace: dict[str, Any] = {"__name__": "check"}
        for text, name in ((job["prompt"], "<prompt>"), (job["test"], "<test>")):
            exec(compile(text, name, "exec", dont_inherit=True), namespace)
        check = namespace["check"]
        report.began = True
        namespace[job["entry_point"]] = caller
        check(caller)
    report.give("passed", "")
    os._exit(0)


class Caller:
    """Proxy of the program's function that the check calls.

    It returns the function's value or raises its exception, as the built-in of that name or a RuntimeError.
    If the program ends or sends an invalid answer, it has failed: this process reports that and exits, so
    that a check which swallows exceptions can't continue.
    """

    def __init__(self, max_bytes: int, report: Report) -> None:
        self._max_bytes, self._report = max_bytes, report
        self._replies = os.fdopen(CALLS, "rb")

    def __call__(self, *arguments: object, **keywords: object) -> Any:  # noqa: RET503
        try:
            line = to_line([arguments, keywords])
        except TypeError as error:
            raise Unsendable(str(error)) from error
        try:
            while line:
                line = line[os.write(REPLIES, line) :]
        except BrokenPipeError:
            self._report.end("the program ended")
        reply = self._replies.readline(self._max_bytes)
        if not reply.endswith(b"\n"):
            self._report.end("an answer exceeds the output limit" if reply else "the program ended")
        try:
            answer = from_line(reply)
        except ValueError:
            answer = None
        match answer:
            case ["returned", value]:
                return value
            case ["raised", str(name), str(message)]:
                self._report.raised = raised_again(name, message)
                raise self._report.raised
            case _:
                self._report.end("the answer is neither a value nor an exception")


def raised_again(name: str, message: str) -> Exception:
    """Return the built-in exception of this name if it takes just a message, else a RuntimeError."""
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        with suppress(TypeError):
            return kind(message)
    return RuntimeError(f"{name}: {message}")


class Report:
    """The checker's verdict, which it sends to the worker."""

    def __init__(self, test: str) -> None:
        self.began = False
        self.raised: Exception | None = None
        """The exception of the last call in which the program's function raised one."""
        self._lines = test.splitlines()

    def give(self, outcome: str, detail: str) -> None:
        os.write(VERDICT, json.dumps({"outcome": outcome, "detail": detail}).encode())

    def end(self, reason: str) -> NoReturn:
        """Report that the program failed in the current call, and exit."""
        self.give("runtime_error", f"{reason}{self._line(traceback.extract_stack())}")
        os._exit(0)

    def _line(self, frames: traceback.StackSummary) -> str:
        places = [frame.lineno for frame in frames if frame.filename == "<test>"]
        line = self._lines[places[-1] - 1].strip() if places and places[-1] else ""
        return f" at {line[:_SHOWN_CHARS]}" if line else ""

    def failure(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        """Report an uncaught exception with the line of the test: the sys.excepthook of a checker."""
        line = self._line(traceback.extract_tb(trace))
        said = f"{kind.__name__}: {str(error)[:_SHOWN_CHARS]}".removesuffix(": ")
        if error is self.raised:
            self.give("runtime_error", f"{said}{line}")
        elif self.began and not issubclass(kind, Unsendable):
            self.give("wrong_answer", f"{said}{line}")
        else:
            self.give("sandbox_error", f"the test itself does not run: {said}")


def keep(descriptors: Sequence[int]) -> None:
    """Renumber the descriptors to 0, 1, 2 and so on; close all others."""
    high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 64) for descriptor in descriptors]
    for number, descriptor in enumerate(high):
        os.dup2(descriptor, number)
    os.closerange(len(high), os.sysconf("SC_OPEN_MAX"))


def _take(descriptor: int) -> bytes:
    with open(descriptor, "rb") as file:
        return file.read()
