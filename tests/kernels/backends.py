"""The backends that the op tests run; Triton's run in its interpreter if there is no GPU."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")

INTERPRETED = importlib.util.find_spec("triton") is not None and os.environ.get("TRITON_INTERPRET") == "1"
FAST = ("cpp", "torch", *(("triton",) if INTERPRETED else ()))
BACKENDS = (*FAST, "reference")


def thinned(options: Iterable[T], backend: str, start: int, every: int = 3) -> list[T]:
    """Return all options; under the interpreter, which takes a second for each, every third from `start`.

    Tests give `start` by their parameters, so that together they run every option.
    """
    found = list(options)
    return found[start % every :: every] if backend == "triton" and INTERPRETED else found
