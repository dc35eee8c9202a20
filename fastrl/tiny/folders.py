"""Folders of the tiny worlds: their cache, a world's key, making one whole or not at all, copying several."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastrl.runtime.cache import cache_folder

log = logging.getLogger(__name__)
PACKAGE = Path(__file__).parent.parent


def default_cache() -> Path:
    """Return the folder of worlds: $FASTRL_CACHE/tiny, or ~/.cache/fastrl/tiny."""
    return cache_folder("tiny")


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


def make_once(folder: Path, make: Callable[[Path], object]) -> Path:
    """Return the folder, made first if it does not exist.

    It is filled under another name and renamed when it is whole. Of two processes that make the same one, the
    first to finish is kept.

    Args:
        make: fills an empty folder.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    log.info("making %s", folder)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        make(partial)
        if not folder.is_dir():
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


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
