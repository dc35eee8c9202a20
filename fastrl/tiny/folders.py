"""Folders of the tiny worlds: cache, keys, atomic creation, export."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastrl.runtime.cache import cache_root, make_once

__all__ = ["default_cache", "digest", "export", "make_once"]
PACKAGE = Path(__file__).parent.parent


def default_cache() -> Path:
    """Return the folder of worlds: $FASTRL_CACHE/tiny, or ~/.cache/fastrl/tiny."""
    return cache_root() / "tiny"


def digest(parent: str, config: Any, sources: Sequence[str]) -> str:
    """Return a world's key, 16 hex digits.

    Args:
        parent: another dependency: the plain world's key, or torch's version.
        config: a dataclass of plain values.
        sources: source files, relative to the fastrl folder, whose text is part of the key.
    """
    whole = hashlib.sha256(parent.encode())
    whole.update(json.dumps(asdict(config), sort_keys=True).encode())
    for source in sources:
        whole.update((PACKAGE / source).read_bytes())
    return whole.hexdigest()[:16]


def export(folder: str | Path, copies: Sequence[Callable[[Path], object]]) -> Path:
    """Copy worlds into one new folder, with the file names of the *-tiny recipes; return the folder.

    Args:
        copies: functions that add a world's files to a folder.
    Raises:
        ValueError: the folder exists.
    """
    target = Path(folder)
    if target.exists():
        raise ValueError(f"[tiny] dir: expected a folder that does not exist yet, got {str(folder)!r}")
    return make_once(target, lambda partial: [copy(partial) for copy in copies])
