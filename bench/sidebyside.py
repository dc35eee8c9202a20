"""Build one table per shape: every provider's time, memory, launches and accuracy, or why it did not run."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from bench.competitors import add_wheels
from bench.gates import ROWS, Exact, exact, gate_case, gates
from bench.harness import compare
from bench.inputs import DISTRIBUTIONS, MASKS, VARIANTS, Case, CaseSpec
from bench.launches import first_calls_ms, launches
from bench.memory import extra_bytes_cuda, fresh_process_bytes
from bench.providers import Provider, gradients, head_providers, scores

Row = dict[str, object]
MIB = 2**20
NAME = 46
SLOW_MS, SLOW = 20_000.0, 2.0
"""On a CPU, a provider slower than both 20 s and twice the fastest is timed once."""


def failures() -> tuple[type[Exception], ...]:
    """Return the exceptions by which a competitor may reject a shape; its row then states the reason."""
    known: tuple[type[Exception], ...] = (
        RuntimeError, ValueError, TypeError, AssertionError, ImportError, AttributeError, KeyError, OSError,
    )  # fmt: skip
    try:
        from triton.errors import TritonError
    except ImportError:
        return known
    return (*known, TritonError)


FAILURES = failures()


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--distribution", nargs="+", choices=DISTRIBUTIONS, default=["random"])
    parser.add_argument("--mask", nargs="+", choices=MASKS, default=["dense", "realistic"])
    parser.add_argument("--variant", nargs="+", choices=list(VARIANTS), default=["dapo"])
    parser.add_argument("--tokens", type=int, help="only shapes with so many tokens")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="only shapes of this dtype")
    parser.add_argument("--only", help="comma-separated beginnings of words in providers' names")
    parser.add_argument("--wheels", type=Path, help="a folder with competitors' wheels or files")
    parser.add_argument(
        "--gate-rows", type=int, default=ROWS, help="rows compared with float64 (0: no comparison)"
    )
    parser.add_argument(
        "--no-memory", action="store_true", help="skip memory (on a CPU it starts a process per provider)"
    )
    parser.add_argument(
        "--first-calls", action="store_true", help="also time first calls at eight new lengths"
    )


@dataclass(frozen=True, slots=True)
class Bench:
    """One op's bench with its flags and device."""

    op: str
    given: argparse.Namespace
    device: str

    @staticmethod
    def start(op: str, given: argparse.Namespace) -> Bench:
        if given.wheels is not None:
            add_wheels(given.wheels)
        return Bench(op, given, device_name())

    def providers(self, spec: CaseSpec) -> Mapping[str, Provider]:
        parts = [part.strip() for part in (self.given.only or "").split(",")]
        # match at the start of a word, so that "trl" does not match fastrl
        wanted = lambda name: any(f" {part}" in f" {name}" for part in parts)
        return head_providers(self.op, self.device, getattr(torch, spec.dtype), wanted)

    def table(self, spec: CaseSpec, train: bool = True) -> list[Row]:
        """Measure every provider at one shape, print the table and return its rows."""
        # after other shapes torch.compile would generate slower code with dynamic shapes
        torch.compiler.reset()
        case, providers = spec.build(), self.providers(spec)
        call = gradients if train else scores
        rows: dict[str, Row] = {
            name: {"provider": name, "version": own.version, "reason": own.reason, "spec": asdict(spec)}
            for name, own in providers.items()
        }
        runs = {n: partial(call, own, case) for n, own in providers.items() if own.reason is None}
        runs = {name: run for name, run in runs.items() if attempt(rows[name], run)}
        self.time(rows, runs)
        measures: dict[str, Callable[[Provider], Row]] = {
            "launches": lambda provider: {**launches(runs[provider.name], self.device)}
        }
        if train and not self.given.no_memory:
            measures["memory"] = lambda provider: self.memory(provider, spec, case)
        if train and self.given.gate_rows:
            measures["gates"] = partial(self.gate, *self.truth(spec))
        if self.given.first_calls:
            measures["first_call_ms"] = lambda provider: {"ms": first_calls_ms(partial(call, provider), spec)}
        for name in runs:
            for what, measure in measures.items():
                attempt(rows[name], lambda: rows[name].update({what: measure(providers[name])}))  # noqa: B023
        show(f"{spec}, {'forward and backward' if train else 'forward'}", list(rows.values()))
        return [{"pass": "train" if train else "score", **row} for row in rows.values()]

    def time(self, rows: dict[str, Row], runs: Mapping[str, Callable[[], object]]) -> None:
        """Time the providers in turn; very slow ones are timed once ("rounds": 1)."""
        # `attempt` has called each provider once already
        first = {name: float(str(rows[name]["attempt_ms"])) for name in runs}
        limit = max(SLOW_MS, SLOW * min(first.values(), default=0.0))
        slow = {name: run for name, run in runs.items() if first[name] > limit and self.device == "cpu"}
        rest = {name: run for name, run in runs.items() if name not in slow}
        warm_ups = 9 if self.device == "cuda" else 0
        for name, times in compare(rest, self.given.rounds, self.device, warm_ups).items():
            rows[name] |= {**times, "rounds": self.given.rounds}
        for name, times in compare(slow, 1, self.device, 0).items():
            rows[name] |= {**times, "rounds": 1}

    def memory(self, provider: Provider, spec: CaseSpec, case: Case) -> Row:
        if self.device == "cuda":
            return {"extra_mib": extra_bytes_cuda(lambda: gradients(provider, case)[1]) / MIB}
        wheels, threads = self.given.wheels, torch.get_num_threads()
        found, problem = fresh_process_bytes(self.op, provider.name, spec, wheels, threads)
        return {"problem": problem} if found is None else {"extra_mib": found / MIB}

    def truth(self, spec: CaseSpec) -> tuple[Case, Exact]:
        case = gate_case(spec, self.given.gate_rows)
        return case, exact(case, self.op)

    def gate(self, case: Case, truth: Exact, provider: Provider) -> Row:
        if not provider.same_loss:
            return {"failed": [], "skipped": "not the same loss"}
        return gates(provider, case, truth)


def attempt(row: Row, run: Callable[[], object]) -> bool:
    """Return whether the call succeeded; if not, put the reason into the row."""
    start = time.perf_counter()
    try:
        run()
    except FAILURES as error:
        words = str(error).strip().splitlines() or ["no message"]
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        row["reason"] = f"failed: {type(error).__name__}: {words[0][:200]}"
        return False
    row.setdefault("attempt_ms", (time.perf_counter() - start) * 1e3)
    return True


def device_name() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def show(title: str, rows: Sequence[Row]) -> None:
    print(f"\n{title}")
    print(
        f"  {'':{NAME}}{'median ms':>11}{'p10':>10}{'p90':>10}{'MiB':>9}{'calls':>7}"
        f"{'|dlogp|':>10}{'dX':>9}{'dW':>9}  gates"
    )
    for row in sorted(rows, key=lambda row: float(str(row.get("median_ms", "inf")))):
        print("  " + line(row))


def line(row: Row) -> str:
    name = f"{row['provider']} {row['version']}".strip()
    if "median_ms" not in row:
        return f"{name:{NAME}} not run: {row['reason']}"
    gate, memory = table_of(row, "gates"), table_of(row, "memory")
    calls = next(iter(table_of(row, "launches").values()), None)
    passed = gate.get("skipped", "passed") if gate else "-"
    verdict = f"FAILS {gate['failed']}" if gate.get("failed") else passed
    figures = [
        f"{row['median_ms']:11.3f}{row['p10_ms']:10.3f}{row['p90_ms']:10.3f}",
        number(memory.get("extra_mib"), 9, ".1f") + number(calls, 7, "d"),
        number(gate.get("logp_max"), 10, ".1e"),
        number(gate.get("dx_rel"), 9, ".1e") + number(gate.get("dw_rel"), 9, ".1e"),
    ]
    notes = f"  ({row['reason']})" if row["reason"] else ""
    notes += "  timed once" if row.get("rounds") == 1 else ""
    notes += "  batch invariant" if gate.get("batch_invariant") else ""
    return f"{name:{NAME}}{''.join(figures)}  {verdict}{notes}"


def table_of(row: Row, key: str) -> Row:
    found = row.get(key)
    return found if isinstance(found, dict) else {}


def number(value: object, width: int, form: str) -> str:
    return f"{value:{width}{form}}" if isinstance(value, int | float) else f"{'-':>{width}}"
