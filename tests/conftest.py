from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import nullcontext, redirect_stderr
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports triton

from checkpoints import CONFIGS, write_checkpoint
from ptys import TerminalStderr

pytest_plugins = ["reward_fixtures", "suite"]


class Checkpoints(Mapping):
    """Folders of tiny checkpoints by family, written when first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getitem__(self, family: str) -> Path:
        path = self.folder / family
        return path if path.exists() else write_checkpoint(path, family)

    def __iter__(self):
        return iter(CONFIGS)

    def __len__(self) -> int:
        return len(CONFIGS)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory) -> Checkpoints:
    return Checkpoints(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture
def terminal(monkeypatch) -> Iterator[TerminalStderr]:
    """A real terminal in the place of stderr, while the test runs."""
    monkeypatch.setenv("TERM", "xterm-256color")
    opened = TerminalStderr()
    yield opened
    opened.close()


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item):
    """After pytest's own capture, which would take stderr back from a fixture."""
    opened = getattr(item, "funcargs", {}).get("terminal")
    with nullcontext() if opened is None else redirect_stderr(opened.file):
        return (yield)


@pytest.fixture(scope="session")
def fixed_model(tmp_path_factory) -> Path:
    """The tiny model of intervention_world."""
    from intervention_world import learned_model

    return learned_model(tmp_path_factory.mktemp("fixed"))
