"""Resumable work in chunks: each chunk's result is on disk before the next chunk begins."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

from fastrl.data.rows import Row
from fastrl.engine.protocol import Engine
from fastrl.report.reporter import Reporter
from fastrl.runtime.distributed import Ranks
from fastrl.runtime.files import append_text
from fastrl.runtime.run import write_atomic
from fastrl.types import Metrics

T = TypeVar("T")
Budget = dict[str, Counter[str]]
"""Requests and tokens of an engine, by purpose."""


def in_chunks(
    path: Path, items: Sequence[T], size: int, work: Callable[[int, list[T]], Any],
    ranks: Ranks | None = None, *, reporter: Reporter | None = None,
    metrics: Callable[[Any], Metrics] = lambda found: {},
) -> list[Any]:  # fmt: skip
    """Return [work(0, items[:size]), work(size, items[size : 2 * size]), ...], saving each result to disk.

    Chunks whose results are on disk, by any rank, are not computed again; a truncated last line is. If `work`
    is a pure function, an interrupted run gives the same result as an uninterrupted one, and many ranks the
    same as one. The ranks take chunks in turn.

    Args:
        path: JSONL file of the first rank, one line per chunk; other ranks write files next to it.
        items: JSON-serialisable.
        work: maps the index of a chunk's first item, and its items, to a JSON-serialisable result.
        reporter: shows progress in items: all that are on disk, and those of this rank.
        metrics: returns a chunk's metrics from its result, for the reporter.
    Raises:
        ValueError: a file holds results of other items.
    """
    ranks = ranks or Ranks()
    starts = range(0, len(items), size)
    keys = [key_of(start, items[start : start + size]) for start in starts]
    done = {row["items"]: row["result"] for row in map(json.loads, lines_of_ranks(path, ranks))}
    if done.keys() - set(keys):
        same = next((number for number, key in enumerate(keys) if key not in done), len(keys))
        raise ValueError(
            f"[run] dir: {path} was begun with other items from number {same * size + 1} on; choose another "
            "folder, or give the same files"
        )
    missing = [(key, start) for key, start in zip(keys, starts, strict=True) if key not in done]
    own = missing[ranks.rank :: ranks.size]
    if reporter is not None:
        count = [len(items[start : start + size]) for _, start in missing]
        reporter.found(len(items) - sum(count))
        reporter.expect(sum(count[ranks.rank :: ranks.size]))
    fresh = []
    for key, start in own:
        chunk = list(items[start : start + size])
        with nullcontext() if reporter is None else reporter.run.time("chunk"):
            found = work(start, chunk)
        # read back from JSON, so that fresh and resumed results are equal
        line = json.dumps({"items": key, "result": found}, ensure_ascii=False)
        append_text(file_of_rank(path, ranks.rank), line + "\n")
        fresh.append((key, json.loads(line)["result"]))
        if reporter is not None:
            reporter.advance(len(chunk), metrics(fresh[-1][1]))
    done |= dict(ranks.gather(fresh))
    return [done[key] for key in keys]


def key_of(start: int, chunk: Sequence[Any]) -> str:
    """Return the key under which a chunk's result is stored."""
    return hashlib.blake2b(json.dumps([start, list(chunk)]).encode(), digest_size=12).hexdigest()


def file_of_rank(path: Path, rank: int) -> Path:
    """Return a rank's file: progress.jsonl, progress-1.jsonl, progress-2.jsonl, ..."""
    return path.with_name(f"{path.stem}-{rank}{path.suffix}") if rank else path


def lines_of_ranks(path: Path, ranks: Ranks) -> list[bytes]:
    """Return the lines of all ranks' files, also of an earlier run with more ranks.

    Waits for all ranks, since none may write before all have read.
    """
    others = sorted(path.parent.glob(f"{path.stem}-[0-9]*{path.suffix}"))
    lines = [line for file in (path, *others) for line in whole_lines(file)]
    ranks.wait()
    return lines


def whole_lines(path: Path) -> list[bytes]:
    """Return the complete lines of a file, and truncate the file after them."""
    if not path.exists():
        return []
    data = path.read_bytes()
    lines = data.split(b"\n")
    incomplete = lines.pop()
    if incomplete:
        os.truncate(path, len(data) - len(incomplete))
    return lines


@contextmanager
def charged(engine: Engine, budget: Budget, purpose: str) -> Iterator[None]:
    """Add the block's engine requests, prefill tokens and sampled tokens to budget[purpose]."""
    before = engine.stats()
    yield
    after = engine.stats()
    spent = budget.setdefault(purpose, Counter())
    spent["requests"] += after.requests - before.requests
    spent["prefill_tokens"] += after.prefill_tokens - before.prefill_tokens
    spent["sampled_tokens"] += after.generated_tokens - before.generated_tokens


def summed(budgets: Sequence[dict[str, dict[str, int]]]) -> dict[str, dict[str, int]]:
    """Return the sum of the chunks' budgets by purpose, and their total."""
    out: Budget = {}
    for budget in budgets:
        for purpose, spent in budget.items():
            out.setdefault(purpose, Counter()).update(spent)
    total: Counter[str] = Counter()
    for spent in out.values():
        total.update(spent)
    return {name: dict(counts) for name, counts in {**out, "total": total}.items()}


def write_json(path: Path, value: Any) -> None:
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
