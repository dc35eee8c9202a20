"""Folders of the tiny worlds: their cache, a world's key, making one whole or not at all, copying several."""

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
    """Return a key for what is made from a configuration: 16 hex digits.

    Args:
        parent: what else it depends on: the key of the plain world, or torch's version.
        config: a dataclass of plain values.
        sources: the files that give it meaning, from the fastrl folder; their text is part of the key.
    """
    whole = hashlib.sha256(parent.encode())
    whole.update(json.dumps(asdict(config), sort_keys=True).encode())
    for source in sources:
        whole.update((PACKAGE / source).read_bytes())
    return whole.hexdigest()[:16]


def export(folder: str | Path, copies: Sequence[Callable[[Path], object]]) -> Path:
    """Copy worlds into one new folder, as the *-tiny recipes name their files; return it.

    Args:
        copies: each adds its world's files to a folder.
    Raises:
        ValueError: the folder exists; nothing is overwritten.
    """
    target = Path(folder)
    if target.exists():
        raise ValueError(f"[tiny] dir: expected a folder that does not exist yet, got {str(folder)!r}")
    return make_once(target, lambda partial: [copy(partial) for copy in copies])
