"""Run the GPU suite within a time budget: build, tests, sanitizer, kernels' resources, benches.

    python -m bench.gpu_suite [--out DIR] [--wheels DIR] [--budget-s 570]        what `make gpu` runs

Downloads nothing. The most valuable parts come first; a part that fails or runs out of time does not stop the
rest. Without a GPU, parts that need one are left out. Exits with 1 if a part failed or tests ran out of time.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SCRATCH = ROOT / "build" / "gpu-suite"
TESTS = "tests/kernels"
ENGINE_TESTS = "tests/engine/tree/test_engine_on_a_gpu.py"
ARCHITECTURES = "80-real;90a-real"
BENCHES = (
    "linear_grpo_loss",
    "linear_logprob",
    "logits_grpo_loss",
    "grpo_loss",
    "tree_decode",
    "prefix_attention",
    "group_advantage",
)
MIN_PART_S = 5.0  # with less time left, no part is started
TAIL, WIDTH = 40, 180  # shown lines of a part's output and their length; the log has everything
MACHINE = """
import inspect, json, numpy, torch, triton.runtime.interpreter as interpreter
try:
    int(numpy.zeros(1))
    interprets = True
except TypeError:
    interprets = "int(self.handle.data)" not in inspect.getsource(interpreter)
gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
versions = {"torch": torch.__version__, "triton": interpreter.triton.__version__, "numpy": numpy.__version__}
print(json.dumps({"gpu": gpu, "cuda": torch.version.cuda, **versions, "interprets": interprets}))
"""
NO_INTERPRETER = "Triton's interpreter does not work with this numpy"


@dataclass(frozen=True, slots=True)
class Part:
    """One command of the suite."""

    name: str
    command: list[str]
    limit_s: float
    env: dict[str, str] = field(default_factory=dict)
    writes: Path | None = None
    """File that a passed part must have written."""
    must_finish: bool = False
    """Running out of time counts as a failure."""
    missing: str | None = None
    """Reason if the part can't run."""


@dataclass(frozen=True, slots=True)
class Outcome:
    part: str
    outcome: str
    """passed, failed, stopped, or not run."""
    seconds: float
    note: str


@dataclass(frozen=True, slots=True)
class Suite:
    out: Path
    wheels: Path | None
    gpu: str | None
    interprets: bool
    """Triton's interpreter works here, so Triton kernels run without a GPU."""

    def parts(self) -> Iterator[Part]:
        yield self.build()
        if self.gpu is not None:
            yield pytest("tests marked gpu", 180, "-m", "gpu", TESTS, ENGINE_TESTS)
        reason = None if self.gpu is not None or self.interprets else NO_INTERPRETER
        yield replace(pytest("tests of Triton's kernels", 150, *triton_tests()), missing=reason)
        yield self.sanitizer("memcheck")
        yield python("resources", 60, "bench.resources")
        for op, limit_s in zip(BENCHES, (120, 90, 60, 60, 60, 60, 30), strict=True):
            yield self.bench(op, limit_s, small=True)
        if self.gpu is not None:  # a stopped longer run leaves the small run's file
            for op, limit_s in zip(BENCHES[:6], (150, 90, 60, 60, 90, 90), strict=True):
                yield self.bench(op, limit_s, small=False)
            yield self.sanitizer("racecheck")
            yield self.receiver()
        yield self.tests_on_cpu()

    def build(self) -> Part:
        mode = "ON" if self.gpu is not None and shutil.which("nvcc") else "AUTO"
        settings = (f"FASTRL_CUDA={mode}", f"CMAKE_CUDA_ARCHITECTURES={ARCHITECTURES}")
        command = [sys.executable, "-m", "pip", "install", "--verbose", "--no-build-isolation", "--no-deps"]
        command += ["--no-index", "--editable", str(ROOT)]
        command += [word for setting in settings for word in ("-C", f"cmake.define.{setting}")]
        return Part(f"build ({mode})", command, 240, must_finish=True)

    def tests_on_cpu(self) -> Part:
        """Return the CPU tests; on a GPU machine they may be cut off, since any machine can run them."""
        flags = [f"--ignore={path}" for path in triton_tests()]
        flags += [] if self.interprets else ["-k", "not triton"]
        part = pytest("tests on the CPU", 300, "-m", "not gpu", TESTS, *flags)
        return replace(part, env={"CUDA_VISIBLE_DEVICES": ""}, must_finish=self.gpu is None)

    def sanitizer(self, tool: str) -> Part:
        command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "1"]
        command += pytest("", 0, "-m", "gpu", f"{TESTS}/test_gpu.py", "-k", "every_op_once").command
        found = shutil.which("compute-sanitizer") is not None
        on_path = None if found else "compute-sanitizer is not on PATH"
        missing = "there is no GPU" if self.gpu is None else on_path
        # without PyTorch's allocator each tensor is one allocation, so the tool sees reads past its end
        return Part(tool, command, 120, {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}, missing=missing)

    def bench(self, op: str, limit_s: float, small: bool) -> Part:
        out = self.out / f"{op}_{'cpu' if self.gpu is None else 'gpu'}.json"
        flags = ["--no-test", "--out", str(out), *(["--small"] if small else [])]
        if self.wheels is not None and op != "group_advantage":
            flags += ["--wheels", str(self.wheels)]
        name = f"bench {op}{', small' if small else ''}"
        return python(name, limit_s, f"bench.bench_{op}", *flags, writes=out)

    def receiver(self) -> Part:
        """Return the bench of the engine with and without shared prefixes."""
        out = self.out / "receiver_gpu.json"
        return python(
            "bench receiver", 90, "bench.bench_receiver", "--rounds", "2", "--out", str(out), writes=out
        )


def python(name: str, limit_s: float, module: str, *flags: str, writes: Path | None = None) -> Part:
    return Part(name, [sys.executable, "-m", module, *flags], limit_s, writes=writes)


def pytest(name: str, limit_s: float, *flags: str) -> Part:
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", *flags]
    command += ["--continue-on-collection-errors"]
    if importlib.util.find_spec("hypothesis") is None:
        command += [f"--ignore={path}" for path in needing_hypothesis()]
    return Part(name, command, limit_s, must_finish=True)


def triton_tests() -> list[str]:
    """Return the test files that run in Triton's interpreter if there is no GPU."""
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / TESTS).glob("test_triton_*.py"))


def needing_hypothesis() -> list[str]:
    needing = re.compile(r"^(from|import) hypothesis\b", re.MULTILINE)
    files = sorted((ROOT / TESTS).glob("test_*.py"))
    return [str(path.relative_to(ROOT)) for path in files if needing.search(path.read_text())]


def run(part: Part, limit_s: float, log: Path) -> Outcome:
    """Run a part with its output in the log; at the limit, kill it with all processes it started."""
    if part.missing is not None:
        return Outcome(part.name, "not run", 0.0, part.missing)
    began, start, clock = time.monotonic(), log.stat().st_size, time.time()
    code = call(part, limit_s, log)
    seconds = time.monotonic() - began
    show(log, start)
    if code is None:
        return Outcome(part.name, "stopped", seconds, f"ran out of its {limit_s:.0f} s")
    if code != 0:
        return Outcome(part.name, "failed", seconds, f"exit code {code}")
    if part.writes is not None and not (part.writes.exists() and part.writes.stat().st_mtime > clock - 1):
        return Outcome(part.name, "failed", seconds, f"did not write {part.writes.name}")
    return Outcome(part.name, "passed", seconds, "")


def call(part: Part, limit_s: float, log: Path) -> int | None:
    """Run the command and return its exit code; None if the time ran out."""
    env = {**os.environ, "PYTHONUNBUFFERED": "1", **part.env}
    with log.open("ab") as sink:
        process = subprocess.Popen(
            part.command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink,
            start_new_session=True,
        )  # fmt: skip
        try:
            return process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with contextlib.suppress(ProcessLookupError):  # kill processes that the part left running
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def show(log: Path, start: int) -> None:
    """Print the last log lines after byte `start`, without the JSON."""
    lines = log.read_bytes()[start:].decode(errors="replace").splitlines()
    for line in [line for line in lines if line.strip() and not line.startswith("{")][-TAIL:]:
        print(f"    {line[:WIDTH]}")


def machine() -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-c", MACHINE], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"[gpu] torch, triton, numpy: expected them to import, got {done.stderr[-500:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_suite")
    parser.add_argument(
        "--out", type=Path, help="folder of the JSON (default: bench/results; without a GPU: build/)"
    )
    parser.add_argument("--wheels", type=Path, help="a folder with competitors' wheels or files")
    parser.add_argument("--budget-s", type=float, default=570, help="seconds for all parts")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # also stops the part that is running
    deadline, found = time.monotonic() + given.budget_s, machine()
    scratch = (given.out or SCRATCH).resolve()
    out = scratch if given.out or found["gpu"] is None else ROOT / "bench" / "results"
    scratch.mkdir(parents=True, exist_ok=True)
    print(", ".join(f"{name} {value}" for name, value in found.items()))
    if importlib.util.find_spec("hypothesis") is None:
        print(f"hypothesis is not installed, left out: {', '.join(needing_hypothesis())}")
    if not found["interprets"]:
        print(f"{NO_INTERPRETER}: tests that need it are left out")
    wheels = None if given.wheels is None else given.wheels.resolve()
    suite = Suite(out, wheels, found["gpu"], found["interprets"])
    outcomes, failed = run_all(suite, deadline, scratch, found)
    print(f"\n{'part':34}{'outcome':10}{'s':>7}")
    for row in outcomes:
        print(f"{row.part:34}{row.outcome:10}{row.seconds:7.1f}  {row.note}")
    print(f"JSON in {out}, the log in {scratch}")
    return int(failed)


def run_all(suite: Suite, deadline: float, folder: Path, found: dict[str, Any]) -> tuple[list[Outcome], bool]:
    """Run all parts; return (outcomes, whether the suite failed). The summary is written after each part."""
    outcomes, failed = [], False
    log = folder / "gpu_suite.log"
    log.write_text("")
    for part in suite.parts():
        left = deadline - time.monotonic()
        print(f"\n== {part.name}, {left:.0f} s left", flush=True)
        if left < MIN_PART_S:
            outcome = Outcome(part.name, "not run", 0.0, "no time left")
        else:
            outcome = run(part, min(part.limit_s, left), log)
        print(f"   {outcome.outcome}, {outcome.seconds:.1f} s {outcome.note}", flush=True)
        unfinished = part.must_finish and part.missing is None and outcome.outcome != "passed"
        failed = failed or outcome.outcome == "failed" or unfinished
        outcomes.append(outcome)
        summary = {**found, "parts": [asdict(done) for done in outcomes]}
        (folder / "gpu_suite.json").write_text(json.dumps(summary, indent=1) + "\n")
    return outcomes, failed


if __name__ == "__main__":
    sys.exit(main())
