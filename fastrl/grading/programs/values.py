"""Plain data as lines of text, for calls between a checker and a program that it doesn't trust."""

from __future__ import annotations

import json
from typing import Any


def to_line(value: object) -> bytes:
    """Encode None, bool, int, float, complex, str, bytes, or a list, tuple, set, frozenset, dict of these.

    Raises:
        TypeError: anything else.
    """
    return json.dumps(_plain(value)).encode() + b"\n"


def from_line(line: bytes) -> Any:
    """Decode a line of to_line. Safe for any line: it can only yield plain data.

    Raises:
        ValueError: to_line writes no such line.
    """
    try:
        return _value(json.loads(line))
    except (TypeError, AttributeError, OverflowError, RecursionError, MemoryError) as error:
        raise ValueError(f"expected plain data, got {type(error).__name__}") from error


def _plain(value: object) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if abs(value) < 1 << 53 else {"int": hex(value)}  # Python limits decimal digits
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {"dict": [[_plain(key), _plain(item)] for key, item in value.items()]}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    for kind in (tuple, set, frozenset):
        if isinstance(value, kind):
            return {kind.__name__: [_plain(item) for item in value]}
    raise TypeError(f"calls take and give plain data, not {type(value).__name__}")


def _value(plain: Any) -> Any:
    if isinstance(plain, list):
        return [_value(item) for item in plain]
    if not isinstance(plain, dict):
        return plain
    if len(plain) != 1:
        raise ValueError(f"expected one kind, got {list(plain)}")
    ((kind, inner),) = plain.items()
    if kind == "int":
        return int(inner, 16)
    if kind == "bytes":
        return bytes.fromhex(inner)
    items = [_value(item) for item in inner]
    if kind == "dict":
        return dict(items)
    if kind == "complex":
        return complex(*items)
    if kind in ("tuple", "set", "frozenset"):
        return {"tuple": tuple, "set": set, "frozenset": frozenset}[kind](items)
    raise ValueError(f"expected a kind of data, got {kind}")
