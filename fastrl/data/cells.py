"""Cells of a row: look them up by dotted name, parse JSON or Python literals in a CSV file's text."""

from __future__ import annotations

import ast
import json
from typing import Any

from fastrl.data.rows import Row


def lookup(row: Row, name: str) -> Any:
    """Return row[name], or row["a"]["b"] for "a.b"; None if missing. A dict may be written as text."""
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        value = parsed(value) if isinstance(value, str) else value
        value = value.get(part) if isinstance(value, dict) else None
    return value


def parsed(text: str) -> Any:
    """Parse a list or dict written in JSON or as a Python literal; return any other text unchanged."""
    if text.lstrip()[:1] not in ("[", "{"):
        return text
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return value if isinstance(value, dict | list) else text
    return text
