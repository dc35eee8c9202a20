"""Safe reading and writing in untrusted folders: links are not followed, devices and pipes are not opened."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a new, empty file next to `path`, which replaces `path` when the block ends.

    Its name is random and it is created exclusively, so a planted link is never followed. After an error in
    the block it is removed; files left by a killed process are removed on the next call.

    Raises: OSError: the file can't be written.
    """
    temporary, lock = create_temporary(path)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(lock)
    for file in path.parent.iterdir():
        if is_temporary(file, path):
            remove_unlocked(file)


def create_temporary(path: Path) -> tuple[Path, int]:
    """Create a temporary file for `path`; return it and a descriptor that locks it until the process ends."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        lock = os.open(temporary, flags, 0o666)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.fstat(lock).st_nlink:
            return temporary, lock
        os.close(lock)  # another process removed it as abandoned, before it was locked


def is_temporary(file: Path, path: Path) -> bool:
    """Return True if the file's name is one that `replacing` gives to a temporary file of `path`."""
    return re.fullmatch(rf"\.{re.escape(path.name)}\.[0-9a-f]{{16}}\.tmp", file.name) is not None


def remove_unlocked(temporary: Path) -> None:
    """Remove a temporary file if the process that wrote it has ended."""
    try:
        descriptor = os.open(temporary, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return  # removed by another process, or a link
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        temporary.unlink(missing_ok=True)
    except BlockingIOError:
        pass  # its writer is alive
    finally:
        os.close(descriptor)


def append_text(path: Path, text: str) -> None:
    """Append to a file; create it if it does not exist.

    Raises: OSError: the file can't be written, or is a link.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o666), "w", encoding="utf-8") as file:
        file.write(text)


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading.

    Raises: OSError: the file can't be read, or is a link, a device, a pipe or a folder.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path}: expected a regular file")
    return os.fdopen(descriptor, "rb")


def is_inside(folder: Path, name: object) -> bool:
    """Return True if a relative path, read from an untrusted file, stays inside the folder without links."""
    if not isinstance(name, str) or "\0" in name or name in ("", "."):
        return False
    parts = Path(name).parts
    if Path(name).is_absolute() or ".." in parts:
        return False
    return not any(folder.joinpath(*parts[:number]).is_symlink() for number in range(1, len(parts) + 1))
