"""The backends that the op tests run: Triton's under its interpreter where there is no GPU."""

from __future__ import annotations

import importlib.util
import os

INTERPRETED = importlib.util.find_spec("triton") is not None and os.environ.get("TRITON_INTERPRET") == "1"
FAST = ("cpp", "torch", *(("triton",) if INTERPRETED else ()))
BACKENDS = (*FAST, "reference")
