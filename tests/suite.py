"""Hooks of the suite: marks by file, a fixed random state per test, limits, skip reasons, durations.

--check            only tests without a mark
--long             only tests marked long; other runs leave them out
--limit-s S        lists tests that take more CPU time than this; five times as much fails
--strict-skips     a skip whose reason is not in ALLOWED_SKIPS fails the run
--record FILE      write each file's tests and seconds by mark, as JSON (tests/durations.json)
"""

from __future__ import annotations

import importlib
import json
import os
import random
import re
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from marks import MARKS
from places import TESTS

DURATIONS = TESTS / "durations.json"
ALLOWED_SKIPS = (
    r"needs a (GPU|CUDA device)$",
    r"needs a build with nvcc",
    r"needs \d+ GiB of free GPU memory",
    r"no network",
    r"no Chromium here",  # where apt does not give it
    r"no benchmark file",  # files of ../shared, which a clone has not
    r"HumanEval\S* is not here$",
    r"real benchmark files are not next to the checkout$",
    r"tiny world (has not been made|is not in the cache)",  # minutes of training: make demo
    r"trackio is not installed",  # tests/peers.txt says why
)
FAILS_AT = 5
"""Times --limit-s: the CPU time at which a test fails."""
INTERPRETED_EVERY = 3
"""make test runs every third parameter set of a test in Triton's interpreter, make long the others."""
NO_PARAMETERS = SimpleNamespace(params={})
HEAVY = "torch._dynamo transformers sympy.parsing.sympy_parser latex2sympy2_extended matplotlib.pyplot pandas"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastrl")
    group.addoption("--check", action="store_true", help=f"only tests without {', '.join(MARKS)}")
    group.addoption("--long", action="store_true", help="only tests that are marked long")
    group.addoption("--limit-s", type=float, help="seconds of CPU time from which a test is listed")
    group.addoption("--strict-skips", action="store_true", help="fail on a skip whose reason is not listed")
    group.addoption("--record", type=Path, help="write tests and seconds by file and mark to this file")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Suite(config), "fastrl-suite")


def marks_of(path: Path) -> list[str]:
    """Return the marks that a whole file has: its own line in MARKS, or its folder's."""
    parts = path.relative_to(TESTS).as_posix()
    return [mark for mark, places in MARKS.items() if any((parts + "/").startswith(f"{p}/") for p in places)]


def mark_of(item: pytest.Item) -> str:
    """Return the first of MARKS that a test has, from its file, its module, itself or its parameters."""
    return next((mark for mark in MARKS if item.get_closest_marker(mark)), "")


def reseed(state: int) -> None:
    """Give random, NumPy and PyTorch a state that does not depend on the tests that ran before."""
    random.seed(state)
    np.random.seed(state)
    torch.manual_seed(state)


def cpu_seconds() -> float:
    """Return the CPU time of this process and of the children that it has waited for."""
    return sum(os.times()[:4])


def runs_triton(item: pytest.Item) -> bool:
    """Return whether a parameter of this test names the backend triton."""
    params = getattr(item, "callspec", NO_PARAMETERS).params.values()
    return any(isinstance(value, str) and value == "triton" for value in params)


def reason_of(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Return why a test or a module was skipped."""
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ").removeprefix("unconditional skip: ")


def is_allowed(reason: str) -> bool:
    """Return whether the short list of reasons knows this one."""
    return any(re.search(pattern, reason) for pattern in ALLOWED_SKIPS)


def durations_text(seconds: dict[str, float], marks: dict[str, str]) -> str:
    """Return {file: {mark: [tests, seconds]}} as JSON, a file per line; no mark: "check"."""
    files: dict[str, dict[str, list[float]]] = {}
    for test, spent in sorted(seconds.items()):
        entry = files.setdefault(test.split("::")[0], {}).setdefault(marks[test] or "check", [0, 0.0])
        entry[0] += 1
        entry[1] = round(entry[1] + spent, 2)
    lines = [f"  {json.dumps(file)}: {json.dumps(entry)}" for file, entry in sorted(files.items())]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def total(recorded: dict[str, dict[str, list[float]]], mark: str) -> tuple[int, float]:
    """Return the tests that have this mark in such a record, and their seconds."""
    entries = [entry[mark] for entry in recorded.values() if mark in entry]
    return sum(int(count) for count, _ in entries), sum(seconds for _, seconds in entries)


class Suite:
    """The hooks of one run; with pytest-xdist the controller has one and every worker another."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.check: bool = config.option.check
        self.skips: dict[str, str] = {}  # test or module -> reason
        self.seconds: dict[str, float] = defaultdict(float)
        self.over_limit_s: dict[str, float] = {}
        self.marks: dict[str, str] = {}

    # ---- what is collected

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        """Skip the import of files that --check would deselect whole."""
        inside = collection_path.is_relative_to(TESTS) and collection_path.suffix == ".py"
        return True if self.check and inside and marks_of(collection_path) else None

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        for mark in marks_of(item.path):
            item.add_marker(mark)
        if runs_triton(item) and not torch.cuda.is_available():
            item.add_marker("interpreter")
        self.marks[item.nodeid] = mark_of(item)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        self.thin(items)
        left = [item for item in items if not self.is_asked(self.marks[item.nodeid])]
        items[:] = [item for item in items if self.is_asked(self.marks[item.nodeid])]
        self.config.hook.pytest_deselected(items=left)

    def thin(self, items: list[pytest.Item]) -> None:
        """Mark long two of three parameter sets that a test runs in Triton's interpreter, which is slow."""
        seen: Counter[str] = Counter()
        for item in items if not torch.cuda.is_available() else ():
            if self.marks[item.nodeid] == "interpreter":
                test = item.nodeid.split("[")[0]
                if seen[test] % INTERPRETED_EVERY:
                    item.add_marker("long")
                    self.marks[item.nodeid] = "long"
                seen[test] += 1

    def is_asked(self, mark: str) -> bool:
        """Return whether this run runs tests of this mark."""
        return not mark if self.check else (mark == "long") is bool(self.config.option.long)

    def pytest_sessionstart(self) -> None:
        """Import what several tests import when first used, so that no test is charged for it."""
        if self.check and (
            hasattr(self.config, "workerinput") or not self.config.getoption("numprocesses", 0)
        ):
            for name in HEAVY.split():
                with suppress(ImportError):
                    importlib.import_module(name)

    # ---- one test

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        reseed(0)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item):
        reseed(0)
        start = cpu_seconds()
        try:
            return (yield)
        finally:
            item.user_properties.append(("cpu_s", round(cpu_seconds() - start, 3)))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call):
        report = yield
        report.user_properties.append(("mark", self.marks.get(item.nodeid, "")))
        used = dict(item.user_properties).get("cpu_s", 0.0)
        limit_s: float | None = self.config.option.limit_s
        if limit_s and report.when == "call" and report.passed and used > limit_s:
            report.user_properties.append(("over_limit_s", used))
        # a slow or busy machine takes two or three times as long, so only what is far beyond fails
        if limit_s and report.when == "call" and report.passed and used > FAILS_AT * limit_s:
            report.outcome = "failed"
            report.longrepr = (
                f"[limit_s] {item.nodeid}: expected about {limit_s:g} s of CPU time, got {used:.1f}: make "
                f"it smaller, or mark it with one of {', '.join(MARKS)}"
            )
        return report

    # ---- what is reported

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.marks[report.nodeid] = dict(report.user_properties).get("mark", "")
        self.seconds[report.nodeid] += report.duration
        if "over_limit_s" in dict(report.user_properties):
            self.over_limit_s[report.nodeid] = dict(report.user_properties)["over_limit_s"]
        if report.skipped and not hasattr(report, "wasxfail"):
            self.skips[report.nodeid] = reason_of(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self.skips[report.nodeid] = reason_of(report)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node) -> None:
        """A worker's skipped modules, which pytest-xdist does not send as reports."""
        self.skips.update(getattr(node, "workeroutput", {}).get("skips", {}))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if hasattr(self.config, "workerinput"):
            modules = {node: reason for node, reason in self.skips.items() if "::" not in node}
            self.config.workeroutput["skips"] = modules
            return
        if self.config.option.strict_skips and self.unlisted() and session.exitstatus in (0, 5):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if self.config.option.record:
            self.config.option.record.write_text(durations_text(self.seconds, self.marks))

    def unlisted(self) -> list[str]:
        """Return the reasons of skips that the short list does not know."""
        return [reason for reason in self.skips.values() if not is_allowed(reason)]

    def pytest_terminal_summary(self, terminalreporter) -> None:
        write = terminalreporter.write_line
        reasons = Counter(self.skips.values())
        if reasons:
            terminalreporter.section("skips by reason")
        for reason, count in reasons.most_common():
            write(
                f"{count:6}  {reason}{'' if is_allowed(reason) else '  (not on the list of tests/suite.py)'}"
            )
        if self.check:
            terminalreporter.section("left out: tests, seconds in the last recorded make test")
            recorded = json.loads(DURATIONS.read_text()) if DURATIONS.exists() else {}
            for mark in MARKS if recorded else ():
                count, seconds = total(recorded, mark)
                write(f"{count:6}  {seconds:6.0f} s  {mark}")
            if not recorded:
                write(
                    f"files and tests that are marked {', '.join(MARKS)}; not timed: make test RECORD=1 does"
                )
        if self.over_limit_s:
            terminalreporter.section(
                f"more than {self.config.option.limit_s:g} s of CPU time: shrink or mark"
            )
        for test, used in sorted(self.over_limit_s.items(), key=lambda entry: -entry[1]):
            write(f"{used:6.1f} s  {test}")
        seed = self.config.getoption("random_order_seed", None)
        if self.config.getoption("random_order_enabled", False):
            write(f"random order: SEED={str(seed).removeprefix('default:')} gives it again")
