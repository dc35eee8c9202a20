"""Timing side by side: the op's tests first, providers in turn, the last line is JSON."""

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


def arguments(op: str) -> argparse.Namespace:
    """Flags that every bench has; the op's test file runs first, and a red one ends the bench."""
    parser = argparse.ArgumentParser(prog=f"python -m bench.bench_{op}")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds; each runs every provider once")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--small", action="store_true", help="the smallest shape alone")
    parser.add_argument("--no-test", action="store_true", help="skip the op's tests")
    given = parser.parse_args()
    if not given.no_test:
        command = [sys.executable, "-m", "pytest", "-q", "--durations=0", f"tests/kernels/test_{op}.py"]
        if subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.DEVNULL).returncode != 0:
            raise SystemExit(f"[bench] {op}: expected its tests to pass, got a failure; nothing is timed")
    torch.set_num_threads(given.threads)
    return given


def compare(providers: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of each provider: one warm-up, then all of them in turn, round after round."""
    times: dict[str, list[float]] = {name: [] for name in providers}
    for run in providers.values():
        run()
    for _ in range(rounds):
        for name, run in providers.items():
            start = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: summary(values) for name, values in times.items()}


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
    """work: what one call does, in 1e9 of `unit` (FLOP or bytes counted in the bench)."""
    print(f"\n{shape}")
    for name, row in rows.items():
        rate = work / row["median_ms"] * 1e3
        print(
            f"  {name:24s} {row['median_ms']:10.3f} ms  (p10 {row['p10_ms']:.3f}, p90 {row['p90_ms']:.3f}, "
            f"min {row['min_ms']:.3f})  {rate:8.2f} {unit}/s"
        )


def finish(op: str, results: list[dict[str, object]]) -> None:
    """Machine, versions and every figure as one line of JSON."""
    print()
    print(
        json.dumps(
            {
                "op": op,
                "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
                "cpu": torch.backends.cpu.get_cpu_capability(),
                "torch": torch.__version__,
                "commit": commit(),
                "results": results,
            }
        )
    )


def commit() -> str:
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, check=False, capture_output=True, text=True
    )
    return found.stdout.strip() or "unknown"
