"""Files of rows: JSONL (plain or gzipped), Parquet, CSV. Every row becomes a dict, whatever the file."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def read_rows(path: str, limit: int | None = None) -> list[Row]:
    """The first `limit` rows of a file, or all of them.

    Raises:
        FileNotFoundError: no such file.   ValueError: unknown ending, a broken row, or no rows at all.
    """
    if not path:
        raise ValueError("[data] path: expected a .jsonl, .jsonl.gz, .parquet or .csv file, got ''")
    file = Path(path)
    reader = next((read for ending, read in READERS.items() if file.name.endswith(ending)), None)
    if reader is None:
        raise ValueError(f"[data] path: expected an ending among {', '.join(READERS)}, got {path!r}")
    if not file.is_file():
        raise FileNotFoundError(f"[data] path: expected an existing file, got {path!r}")
    rows = list(islice(reader(file), limit))
    if not rows:
        raise ValueError(f"[data] path: expected at least one row, got an empty file {path!r}")
    return rows


def _read_jsonl(file: Path) -> Iterable[Row]:
    with open(file, "rb") as raw, gzip.open(raw) if file.suffix == ".gz" else raw as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(
                    f"[data] {file.name} line {number}: expected a JSON object, got {error}"
                ) from error
            if not isinstance(row, dict):
                raise ValueError(
                    f"[data] {file.name} line {number}: expected a JSON object, got {line[:60]!r}"
                )
            yield row


def _read_parquet(file: Path) -> Iterable[Row]:
    import pyarrow.parquet

    for batch in pyarrow.parquet.ParquetFile(file).iter_batches():
        yield from batch.to_pylist()


def _read_csv(file: Path) -> Iterable[Row]:
    previous = csv.field_size_limit(1 << 30)
    try:
        with open(file, encoding="utf-8-sig", newline="") as lines:
            for number, row in enumerate(csv.DictReader(lines), start=1):
                if None in row:  # where DictReader keeps surplus fields
                    raise ValueError(
                        f"[data] {file.name} row {number}: expected the header's number of fields, got more"
                    )
                yield row
    finally:
        csv.field_size_limit(previous)


READERS: dict[str, Callable[[Path], Iterable[Row]]] = {
    ".jsonl": _read_jsonl,
    ".jsonl.gz": _read_jsonl,
    ".parquet": _read_parquet,
    ".csv": _read_csv,
}
