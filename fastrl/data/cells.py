"""Cells of a row: by dotted name, and JSON or Python literals that a CSV file holds as text."""

from __future__ import annotations

import ast
import json
from typing import Any

from fastrl.data.rows import Row


def lookup(row: Row, name: str) -> Any:
    """row[name], or row["a"]["b"] for "a.b"; None where there is none. A dict may be written as text."""
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        value = parsed(value) if isinstance(value, str) else value
        value = value.get(part) if isinstance(value, dict) else None
    return value


def parsed(text: str) -> Any:
    """The list or dict that a text spells in JSON or as a Python literal; the text where it spells none."""
    if text.lstrip()[:1] not in ("[", "{"):
        return text
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return value if isinstance(value, dict | list) else text
    return text
