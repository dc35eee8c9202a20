"""Work in chunks that survives a kill: what a chunk gave is on disk before the next one begins."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from fastrl.data.rows import Row
from fastrl.engine.protocol import Engine
from fastrl.run import write_atomic

T = TypeVar("T")
Budget = dict[str, Counter[str]]
"""Counts by purpose: what an engine was asked for, and what it cost."""


def in_chunks(path: Path, items: Sequence[T], size: int, work: Callable[[int, list[T]], Any]) -> list[Any]:
    """[work(0, items[:size]), work(size, items[size : 2 * size]), ...], each on disk once it is there.

    Chunks that the file holds are not worked on again; one that a kill tore is. A chunk is a unit of work, so
    where `work` is a function of its arguments, an interrupted run gives the same as one that went through.

    Args:
        path: JSONL, a line a chunk.
        items: JSON-serialisable.
        work: gets the place of the chunk's first item, and its items; returns what JSON can hold.
    Raises:
        ValueError: the file speaks of other items.
    """
    done = whole_lines(path)
    results = []
    for number, start in enumerate(range(0, len(items), size)):
        chunk = list(items[start : start + size])
        key = hashlib.blake2b(json.dumps([start, chunk]).encode(), digest_size=12).hexdigest()
        if number < len(done):
            kept = json.loads(done[number])
            if kept["items"] != key:
                raise ValueError(
                    f"[run] dir: {path} was begun with other items from number {start + 1} on; choose "
                    "another folder, or give the same files"
                )
        else:
            # through JSON at once, so that both ways lead to the same values
            line = json.dumps({"items": key, "result": work(start, chunk)}, ensure_ascii=False)
            with path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
            kept = json.loads(line)
        results.append(kept["result"])
    return results


def whole_lines(path: Path) -> list[bytes]:
    """Lines of a file, and what follows the last line break cut off."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    torn = lines.pop()
    if torn:
        os.truncate(path, path.stat().st_size - len(torn))
    return lines


@contextmanager
def charged(engine: Engine, budget: Budget, purpose: str) -> Iterator[None]:
    """Adds what the block asks of the engine to budget[purpose]: requests, and tokens as computed."""
    before = engine.stats()
    yield
    after = engine.stats()
    spent = budget.setdefault(purpose, Counter())
    spent["requests"] += after.requests - before.requests
    spent["prefill_tokens"] += after.prefill_tokens - before.prefill_tokens
    spent["sampled_tokens"] += after.generated_tokens - before.generated_tokens


def summed(budgets: Sequence[dict[str, dict[str, int]]]) -> dict[str, dict[str, int]]:
    """Budgets of all chunks, and their total."""
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
