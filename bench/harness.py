"""Time providers in turn, after the op's tests have passed; the last line is JSON."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent


def arguments(
    op: str, more: Callable[[argparse.ArgumentParser], None] = lambda _: None
) -> argparse.Namespace:
    """Parse the common flags and `more`, then run the op's tests; a failing test ends the bench."""
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(prog=f"python -m bench.bench_{op}")
    parser.add_argument(
        "--rounds", type=int, default=50 if on_gpu else 5, help="timed rounds; each runs every provider once"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--small", action="store_true", help="only the smallest shape")
    parser.add_argument("--no-test", action="store_true", help="skip the op's tests")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    more(parser)
    given = parser.parse_args()
    if not given.no_test:
        command = [sys.executable, "-m", "pytest", "-q", "--durations=0", f"tests/kernels/test_{op}.py"]
        if subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.DEVNULL).returncode != 0:
            raise SystemExit(f"[bench] {op}: expected its tests to pass, got a failure; nothing is timed")
    torch.set_num_threads(given.threads)
    return given


def compare(
    providers: Mapping[str, Callable[[], object]], rounds: int, device: str = "cpu", warm_ups: int = 1
) -> dict[str, dict[str, float]]:
    """Return a summary of milliseconds per provider; after warm-ups, providers take turns in every round."""
    times: dict[str, list[float]] = {name: [] for name in providers}
    measure = gpu_ms if device == "cuda" else cpu_ms
    for run in providers.values():
        for _ in range(warm_ups):
            run()
    for _ in range(rounds):
        for name, run in providers.items():
            times[name].append(measure(run))
    return {name: summary(values) for name, values in times.items()}


def cpu_ms(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e3


def gpu_ms(run: Callable[[], object]) -> float:
    """Time by CUDA events on an empty stream, so that visible launch overhead counts."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


def summary(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    last = len(ordered) - 1
    return {
        "median_ms": statistics.median(ordered),
        "p10_ms": ordered[round(0.1 * last)],
        "p90_ms": ordered[round(0.9 * last)],
        "min_ms": ordered[0],
    }


def show(shape: str, rows: Mapping[str, dict[str, float]], work: float, unit: str) -> None:
    """Print a table; `work` is that of one call in `unit` (GFLOP or GB, as counted by the bench)."""
    print(f"\n{shape}")
    for name, row in rows.items():
        rate = work / row["median_ms"] * 1e3
        print(
            f"  {name:24s} {row['median_ms']:10.3f} ms  (p10 {row['p10_ms']:.3f}, p90 {row['p90_ms']:.3f}, "
            f"min {row['min_ms']:.3f})  {rate:8.2f} {unit}/s"
        )


def finish(op: str, results: list[dict[str, object]], out: Path | None = None) -> None:
    """Print the results with machine and versions as one line of JSON; write it to `out` too."""
    report = {
        "op": op,
        "machine": f"{processor()}, {torch.get_num_threads()} threads",
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "commit": commit(),
        "results": results,
    }
    print(f"\n{json.dumps(report)}")
    if out is not None:
        out.write_text(json.dumps(report, indent=1) + "\n")


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def commit() -> str:
    """Return the checkout's commit, "unknown" in a copy without git history."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=ROOT, check=False, capture_output=True, text=True
        )
    except OSError:
        return "unknown"
    return found.stdout.strip() or "unknown"
