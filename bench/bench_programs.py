"""Measure tests per second in the sandbox against a fresh interpreter per test, with and without bubblewrap.

    python -m bench.bench_programs [--programs 200] [--rounds 3] [--workers 2] [--out FILE]

Programs: short different ones with two stdin tests each; HumanEval's canonical solutions with one function
test each. Providers take turns in every round; the median over the rounds is printed. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.check_humaneval import canonical, problems
from fastrl.config.executor import ProgramConfig
from fastrl.grading.programs.runner import Outcome, ProgramRunner, ProgramTests
from fastrl.runtime.run import environment

ADD = ProgramTests(cases=(("1 2\n", "3"), ("50 6\n", "56")))
HANG = "while True: pass"


def additions(count: int) -> list[str]:
    return [f"a, b = map(int, input().split())\nprint(a + b)  # {number}" for number in range(count)]


def run_all(runner: ProgramRunner, jobs: list[tuple[str, ProgramTests]]) -> None:
    if any(report.outcome is not Outcome.PASSED for report in runner.run(jobs)):
        raise RuntimeError("[bench] programs: expected all to pass")


def fresh(prefix: list[str], programs: list[str], workers: int) -> None:
    """Run every test in a new interpreter; `prefix` is the command of a sandbox, or empty."""

    def one(program: str) -> None:
        for given, wanted in ADD.cases:
            command = [*prefix, os.path.realpath(sys.executable), "-I", "-S", "-c", program]
            done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=10, env={})
            if done.stdout.split() != wanted.split():
                raise RuntimeError(
                    f"[bench] programs: expected {wanted}, got {done.stdout!r} {done.stderr!r}"
                )

    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(one, programs):
            pass


def bubblewrap() -> list[str] | None:
    found = shutil.which("bwrap")
    if found is None:
        return None
    libraries = ("/usr", f"{sys.base_prefix}/lib", os.path.realpath(sys.executable))
    binds = [word for path in libraries for word in ("--ro-bind", path, path)]
    links = [word for name in ("lib", "lib64") for word in ("--symlink", f"usr/{name}", f"/{name}")]
    return [found, "--unshare-all", "--die-with-parent", "--new-session", *binds, *links, "--tmpfs", "/tmp"]


def cpu_s() -> float:
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def measure(count: int, rounds: int, workers: int) -> dict[str, dict[str, float]]:
    programs = additions(count)
    solutions = [(canonical(problem), ProgramTests.from_columns(problem)) for problem in problems()]
    some = programs[: max(1, count // 5)]
    prefix = bubblewrap()
    # a busy machine must not turn a slow program into a timeout
    with ProgramRunner(ProgramConfig(num_workers=workers, timeout_s=10.0)) as runner:
        calls: dict[str, tuple[int, Callable[[], None]]] = {
            "stdin tests / fastrl": (
                2 * count,
                lambda: run_all(runner, [(program, ADD) for program in programs]),
            ),
            "function tests / fastrl": (len(solutions), lambda: run_all(runner, solutions)),
            "stdin tests / fresh python, no sandbox": (2 * len(some), lambda: fresh([], some, workers)),
        }
        if prefix is not None:
            calls["stdin tests / fresh python in bwrap"] = (
                2 * len(some),
                lambda: fresh(prefix, some, workers),
            )
        wall: dict[str, list[float]] = {name: [] for name in calls}
        for warm in [True] + [False] * rounds:
            for name, (tests, call) in calls.items():
                began = time.perf_counter()
                call()
                if not warm:
                    wall[name].append((time.perf_counter() - began) / tests)
    return {
        name: {"ms_per_test": statistics.median(times) * 1e3, "tests_per_s": 1 / statistics.median(times)}
        for name, times in wall.items()
    }


def cpu_per_test(count: int) -> float:
    """Return processor milliseconds per stdin test in trainer and worker, without the worker's start."""

    def used(programs: int) -> float:
        before = cpu_s()
        with ProgramRunner(ProgramConfig(num_workers=1, timeout_s=10.0)) as runner:
            run_all(runner, [(program, ADD) for program in additions(programs)])
        return cpu_s() - before

    return (used(count) - used(1)) / (2 * (count - 1)) * 1e3


def after_hostile(rounds: int) -> dict[str, float]:
    """Return the median milliseconds of a test right after a killed one, and right after a passed one."""
    tests = ProgramTests(cases=(("", "ok"),))
    times: dict[str, list[float]] = {"after a kill": [], "after a pass": []}
    with ProgramRunner(ProgramConfig(num_workers=1, timeout_s=0.5)) as runner:
        for number in range(rounds * 4):
            for name, before in (("after a kill", HANG), ("after a pass", "print('ok')")):
                runner.run([(f"{before}  # {number}", tests)])
                began = time.perf_counter()
                runner.run([("print('ok')", tests)])
                times[name].append((time.perf_counter() - began) * 1e3)
    return {name: statistics.median(measured) for name, measured in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    given = parser.parse_args()
    results = measure(given.programs, given.rounds, given.workers)
    more = {"cpu_ms_per_test": cpu_per_test(given.programs), "next_test_ms": after_hostile(given.rounds)}
    for name, result in results.items():
        print(f"{name:42} {result['ms_per_test']:8.2f} ms/test {result['tests_per_s']:8.1f} tests/s")
    print(more)
    settings = {"programs": given.programs, "rounds": given.rounds, "workers": given.workers}
    load = {"cores": os.cpu_count(), "load_average": os.getloadavg()}
    text = json.dumps({"environment": environment(), **settings, **load, "results": results, **more})
    if given.out is not None:
        given.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
