"""Integrations stand at the top: nothing of fastrl imports them, and they import no stage and no command."""

from __future__ import annotations

import ast
from pathlib import Path

from places import ROOT

PACKAGE = ROOT / "fastrl"
ABOVE_OR_BESIDE = ("fastrl.cli", "fastrl.tiny", "fastrl.train", "fastrl.check", "fastrl.stages")


def imported(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}


def test_nothing_below_imports_them():
    folder = PACKAGE / "integrations"
    for path in PACKAGE.rglob("*.py"):
        if folder not in path.parents:
            assert not any(name.startswith("fastrl.integrations") for name in imported(path)), path


def test_they_import_what_is_below():
    modules = sorted((PACKAGE / "integrations").glob("*.py"))
    assert len(modules) > 5
    for path in modules:
        assert not any(name.startswith(ABOVE_OR_BESIDE) for name in imported(path)), path
