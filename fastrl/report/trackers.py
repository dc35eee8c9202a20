"""Experiment trackers (trackio, wandb, TensorBoard) behind one interface; they mirror metrics.jsonl."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from fastrl.runtime.run import write_atomic

MODULES = {"trackio": "trackio", "wandb": "wandb", "tensorboard": "tensorboard"}


class Tracker(Protocol):
    """A destination of metrics by step."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def check_trackers(names: Sequence[str]) -> None:
    """Raise ValueError for an unknown tracker, or one whose package is not installed."""
    for name in names:
        if name not in MODULES:
            raise ValueError(f"[run] report_to: expected some of {', '.join(MODULES)}, got {name!r}")
        if find_spec(MODULES[name]) is None:
            raise ValueError(
                f"[run] report_to: expected an installed package, got {name}; pip install {name}"
            )


def open_trackers(names: Sequence[str], folder: Path, config: Mapping[str, Any]) -> list[Tracker]:
    """Open the trackers of a run, named after its folder; a resumed run continues the same tracker run.

    Args:
        names: any of trackio, wandb, tensorboard.
        folder: the run folder.
        config: nested plain values, shown with the curves.
    """
    check_trackers(names)
    return [
        TensorBoard(folder) if name == "tensorboard" else WandbLike(MODULES[name], folder, config)
        for name in names
    ]


def run_id(folder: Path) -> str:
    """Return the run folder's id, created on first use, by which trackers recognise a resumed run."""
    file = folder / "run-id"
    if not file.exists():
        write_atomic(file, uuid4().hex[:8] + "\n")
    return file.read_text().strip()


class WandbLike:
    """Tracker for wandb and for trackio, which has the same interface."""

    def __init__(self, module: str, folder: Path, config: Mapping[str, Any]) -> None:
        self.module = import_module(module)
        name = f"{folder.name}-{run_id(folder)}"
        options = {"dir": str(folder), "id": name} if module == "wandb" else {}
        self.module.init(project="fastrl", name=name, config=dict(config), resume="allow", **options)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.module.log(dict(metrics), step=step)

    def close(self) -> None:
        self.module.finish()


class TensorBoard:
    """Tracker that writes event files to the run folder's tensorboard/."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(str(folder / "tensorboard"))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()
