"""The backends that the op tests run: Triton's under its interpreter where there is no GPU."""

from __future__ import annotations

import importlib.util

FAST = ("cpp", "torch", *(("triton",) if importlib.util.find_spec("triton") else ()))
BACKENDS = (*FAST, "reference")
