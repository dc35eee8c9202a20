"""The folder of what can be made again: $FASTRL_CACHE, or ~/.cache/fastrl."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(name: str) -> Path:
    """Return the folder `name` in $FASTRL_CACHE, or in ~/.cache/fastrl; it need not exist."""
    root = os.environ.get("FASTRL_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "fastrl") / name
