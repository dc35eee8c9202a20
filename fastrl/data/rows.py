"""Files of rows: read JSONL (plain or gzipped), Parquet or CSV into one dict per row."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from fastrl.data.hub import local_file

Row = dict[str, Any]
MAX_DIGITS = 4000
"""Longer integers stay text: Python neither parses nor prints integers of more than 4,300 digits."""


@dataclass(frozen=True, slots=True)
class FileRow:
    """A row of a file, or the reason that it can't be read."""

    number: int
    """Counted from 1, without blank lines."""
    place: str
    """File name with line or row number, for errors."""
    row: Row
    fault: str | None = None
    """The reason that the row can't be read; then `row` is empty."""


def read_rows(path: str, limit: int | None = None) -> list[Row]:
    """Read the first `limit` rows of a file, or all of them.

    Raises:
        FileNotFoundError: no such file.   ValueError: unknown ending, a broken row, or no rows.
    """
    rows = []
    for each in read_file(path, limit):
        if each.fault is not None:
            raise ValueError(f"[data] {each.place}: {each.fault}")
        rows.append(each.row)
    return rows


def read_file(path: str, limit: int | None = None) -> list[FileRow]:
    """Read like read_rows, but return a row that can't be read with its fault.

    Raises:
        FileNotFoundError: no such file.
        ValueError: unknown ending, a content that doesn't fit the ending, or no rows.
    """
    if not path:
        raise ValueError("[data] path: expected a .jsonl, .jsonl.gz, .parquet or .csv file, got ''")
    file = Path(local_file(path))
    reader = next((read for ending, read in READERS.items() if file.name.endswith(ending)), None)
    if reader is None:
        raise ValueError(f"[data] path: expected an ending among {', '.join(READERS)}, got {path!r}")
    if not file.is_file():
        raise FileNotFoundError(f"[data] path: expected an existing file, got {path!r}")
    rows = [with_whole_text(each) for each in islice(reader(file), limit)]
    if not rows:
        raise ValueError(f"[data] path: expected at least one row, got an empty file {path!r}")
    return rows


def with_whole_text(each: FileRow) -> FileRow:
    """Return the row, or a fault if a text has a lone surrogate, which no tokenizer takes."""
    column = next(broken_columns(each.row, ""), None)
    if column is None:
        return each
    fault = f"column {column!r}: expected text, got half of a surrogate pair in it"
    return FileRow(each.number, each.place, {}, fault)


def broken_columns(value: object, column: str) -> Iterator[str]:
    """Yield the dotted names of texts in a value that UTF-8 can't encode."""
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            yield column
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from broken_columns(name, column)
            yield from broken_columns(inner, f"{column}.{name}" if column else str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from broken_columns(inner, column)


def read_integer(digits: str) -> int | str:
    return int(digits) if len(digits) <= MAX_DIGITS else digits


def _read_jsonl(file: Path) -> Iterator[FileRow]:
    count = 0
    for number, line in enumerate(_lines(file), start=1):
        line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if not line.strip():
            continue
        count += 1
        place = f"{file.name} line {number}"
        try:
            row = json.loads(line.decode("utf-8"), parse_int=read_integer)
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            yield FileRow(count, place, {}, f"expected a JSON object, got {error}")
            continue
        if isinstance(row, dict):
            yield FileRow(count, place, row)
        else:
            yield FileRow(count, place, {}, f"expected a JSON object, got {line[:60]!r}")


def _lines(file: Path) -> Iterator[bytes]:
    try:
        with open(file, "rb") as raw, gzip.open(raw) if file.suffix == ".gz" else raw as lines:
            yield from lines
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"[data] path: expected a whole gzip file, got {str(file)!r}: {error}") from error


def _read_parquet(file: Path) -> Iterator[FileRow]:
    import pyarrow
    import pyarrow.parquet

    try:
        batches = pyarrow.parquet.ParquetFile(file).iter_batches()
        number = 0
        for batch in batches:
            for index in range(batch.num_rows):
                number += 1
                yield _parquet_row(batch, index, number, f"{file.name} row {number}")
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ValueError(f"[data] path: expected a Parquet file, got {str(file)!r}: {error}") from error


def _parquet_row(batch: Any, index: int, number: int, place: str) -> FileRow:
    try:
        return FileRow(number, place, {name: batch[name][index].as_py() for name in batch.schema.names})
    except UnicodeDecodeError as error:
        return FileRow(number, place, {}, f"expected text in UTF-8, got {error}")


def _read_csv(file: Path) -> Iterator[FileRow]:
    previous = csv.field_size_limit(1 << 30)
    try:
        # invalid UTF-8 becomes lone surrogates, which are reported with row and column
        with open(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
            for number, row in enumerate(csv.DictReader(lines), start=1):
                place = f"{file.name} row {number}"
                if None in row:  # DictReader's key of surplus fields
                    yield FileRow(number, place, {}, "expected the header's number of fields, got more")
                else:
                    yield FileRow(number, place, row)
    except csv.Error as error:
        raise ValueError(f"[data] path: expected a CSV file, got {str(file)!r}: {error}") from error
    finally:
        csv.field_size_limit(previous)


READERS: dict[str, Callable[[Path], Iterable[FileRow]]] = {
    ".jsonl": _read_jsonl,
    ".jsonl.gz": _read_jsonl,
    ".parquet": _read_parquet,
    ".csv": _read_csv,
}
