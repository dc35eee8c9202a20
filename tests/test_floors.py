"""Imports run downwards only: a folder may import the folders below it, a method no other method."""

from __future__ import annotations

import ast
from functools import cache

from places import ROOT

FLOORS = (
    "cli", "tiny", "smol", "tools", "integrations", "train", "check", "stages", "methods", "training",
    "evaluate", "rewards", "report", "engine", "policy", "grading", "data", "runtime", "config", "ops",
    "kernels", "types", "_C",
)  # fmt: skip


@cache
def imports() -> list[tuple[str, str]]:
    """(file, imported module) for every import of fastrl, at the top of a file or inside a function."""
    found = []
    for folder in ("fastrl", "kernels"):
        for path in (ROOT / folder).rglob("*.py"):
            place = str(path.relative_to(ROOT)).replace("kernels/", "fastrl/kernels/", folder == "kernels")
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    found += [(place, alias.name) for alias in node.names]
                if isinstance(node, ast.ImportFrom):
                    found += [(place, f"{node.module}.{alias.name}") for alias in node.names]
    return [(place, name) for place, name in found if name.startswith("fastrl.")]


def floor(name: str) -> int:
    """The number of a module's floor, the highest first; `fastrl/__init__.py` stands on the lowest."""
    room = name.removesuffix(".py").replace("/", ".").split(".")[1]
    return FLOORS.index(room) if room in FLOORS else len(FLOORS)


def test_no_import_runs_upwards():
    assert sorted((place, name) for place, name in imports() if floor(name) < floor(place)) == []


def test_no_method_imports_another():
    between = [
        (place, name)
        for place, name in imports()
        if place.startswith("fastrl/methods/") and name.startswith("fastrl.methods.")
        if place.split("/")[2] != name.split(".")[2]
    ]
    assert sorted(between) == []
