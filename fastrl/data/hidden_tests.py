"""LiveCodeBench's private tests: JSON, or JSON pickled, compressed and in base 64; nothing of it is run."""

from __future__ import annotations

import base64
import binascii
import io
import json
import pickle
import zlib
from typing import Any

MAX_BYTES = 1 << 28
"""Tests that unpack to more are refused."""


class PlainUnpickler(pickle.Unpickler):
    """Reads text and numbers; a pickle that names any class or function is refused."""

    def find_class(self, module: str, name: str) -> Any:
        """Refuse: plain data needs none."""
        raise pickle.UnpicklingError(f"names {module}.{name}")


def unpacked(cell: Any) -> list[dict[str, Any]]:
    """The tests, each with input and output. Raises: ValueError: the cell holds no list of them."""
    tests = cell
    try:
        if isinstance(tests, str) and tests.lstrip()[:1] != "[":
            reader = zlib.decompressobj()
            data = reader.decompress(base64.b64decode(tests, validate=True), MAX_BYTES)
            if reader.unconsumed_tail:
                raise ValueError(f"more than {MAX_BYTES} bytes")
            tests = PlainUnpickler(io.BytesIO(data)).load()
        if isinstance(tests, str):
            tests = json.loads(tests)
    except (ValueError, binascii.Error, zlib.error, pickle.UnpicklingError, EOFError, IndexError) as error:
        raise ValueError(f"private_test_cases: expected packed JSON of tests, got {error}") from error
    if not isinstance(tests, list) or not all(
        isinstance(t, dict) and {"input", "output"} <= t.keys() for t in tests
    ):
        raise ValueError("private_test_cases: expected a list of tests with input and output")
    return tests
