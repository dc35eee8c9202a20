"""LiveCodeBench's private tests: read JSON, or base64 of a compressed pickle of it; nothing is unpickled."""

from __future__ import annotations

import base64
import json
import pickletools
import zlib
from typing import Any

MAX_BYTES = 1 << 28
"""Tests that decompress to more bytes are refused."""
TEXT = ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8")
AROUND = ("PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "STOP")
"""Pickle opcodes around the text in a pickle of a single text."""


def unpacked(cell: Any) -> list[dict[str, Any]]:
    """Return the tests in a cell, each with input and output. Raises: ValueError: the cell holds none."""
    tests = cell
    try:
        if isinstance(tests, str) and tests.lstrip()[:1] != "[":
            tests = pickled_text(inflated(base64.b64decode(tests, validate=True)))
        if isinstance(tests, str):
            tests = json.loads(tests)
    except (ValueError, zlib.error) as error:
        raise ValueError(f"private_test_cases: expected packed JSON of tests, got {error}") from error
    named = isinstance(tests, list) and all(
        isinstance(test, dict) and {"input", "output"} <= test.keys() for test in tests
    )
    if not named:
        raise ValueError("private_test_cases: expected a list of tests with input and output")
    return list(tests)


def inflated(packed: bytes) -> bytes:
    """Decompress the bytes. Raises: ValueError: the result is longer than MAX_BYTES."""
    reader = zlib.decompressobj()
    data = reader.decompress(packed, MAX_BYTES)
    if reader.unconsumed_tail:
        raise ValueError(f"more than {MAX_BYTES} bytes")
    return data


def pickled_text(data: bytes) -> str:
    """Return the text in a pickle of a single text; read its opcodes without executing any.

    Raises: ValueError: it has any other opcode, such as one that names a function.
    """
    texts: list[str] = []
    for code, value, _ in pickletools.genops(data):
        if code.name in TEXT and not texts:
            texts.append(str(value))
        elif code.name not in AROUND:
            raise ValueError(f"a pickle of more than one text (it has {code.name})")
    if not texts:
        raise ValueError("a pickle without a text")
    return texts[0]
