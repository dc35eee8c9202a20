"""Folders that are made once and kept: where they lie, and how one comes to be whole or not at all."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)


def cache_root() -> Path:
    """Return $FASTRL_CACHE, or ~/.cache/fastrl."""
    root = os.environ.get("FASTRL_CACHE")
    return Path(root) if root else Path.home() / ".cache" / "fastrl"


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


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Wait until no other process of this machine is inside for the same folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def sync(path: Path) -> None:
    """Put a file or a folder's entries on the disk, so that a rename never outruns the bytes it names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(folder: Path) -> None:
    """Put a folder and everything in it on the disk."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)
