"""Load competitors' code from installed packages, a folder of wheels, or a single file."""

from __future__ import annotations

import importlib
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import ModuleType

FOLDERS: list[Path] = []


def add_wheels(folder: Path) -> None:
    """Make everything in `folder` importable: wheels (unpacked), packages and single files."""
    for wheel in sorted(folder.glob("*.whl")):
        unpacked = tempfile.mkdtemp(prefix=f"{wheel.name.split('-')[0]}-")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(unpacked)
        sys.path.insert(0, unpacked)
    sys.path.insert(0, str(folder))
    FOLDERS.insert(0, folder)
    importlib.invalidate_caches()


def find_file(relative: str) -> Path:
    """Return a package's file without importing the package; also looks for its name in folders of wheels."""
    wanted = Path(relative)
    places = [Path(entry) / wanted for entry in sys.path] + [folder / wanted.name for folder in FOLDERS]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise ImportError(f"no {relative} in an installed package or a folder of wheels")
    return found


def folder_module(name: str, folder: Path) -> ModuleType:
    """Register `folder` as package `name` without running its __init__, which may need missing packages."""
    module = ModuleType(name)
    module.__path__ = [str(folder)]
    sys.modules[name] = module
    return module


@contextmanager
def stand_ins(modules: dict[str, ModuleType]) -> Iterator[None]:
    """Replace modules, with their submodules, for the duration of an import."""
    hidden = {
        name: module
        for name, module in sys.modules.items()
        if any(name == key or name.startswith(f"{key}.") for key in modules)
    }
    for name in hidden:
        del sys.modules[name]
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in [n for n in sys.modules if any(n == key or n.startswith(f"{key}.") for key in modules)]:
            del sys.modules[name]
        sys.modules.update(hidden)


def version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"
