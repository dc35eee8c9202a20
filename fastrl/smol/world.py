"""Folder for the *-smol recipes: a real checkpoint, and problems of every kind."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from fastrl.data.splits import Split, draw_different
from fastrl.runtime.cache import make_once
from fastrl.runtime.seeding import seed_of
from fastrl.smol.checkpoint import check_weights, packaged_file, write_checkpoint
from fastrl.smol.exercise import Exercise, problem_row, worked_row
from fastrl.smol.kinds import KINDS

SEED = 0
FILES: dict[str, tuple[Split, int, Callable[[Exercise], dict[str, Any]]]] = {
    "train": ("train", 2048, problem_row),
    "test": ("test", 256, problem_row),
    "sft": ("train", 480, worked_row),
}
"""Suffix of a file's name: split, number of rows, function that makes a row."""


def build_world(folder: Path) -> Path:
    """Make the folder if it doesn't exist, else check its content; return it.

    Raises:
        ValueError: a package is missing, or the content differs from what this version writes.
    """
    if folder.exists():
        check_world(folder)
    else:
        packaged_file()
        print(f"fastrl: making {folder}, once", file=sys.stderr, flush=True)
    return make_once(folder, write_world)


def write_world(folder: Path) -> None:
    """Write the checkpoint into `model`, and the problems next to it."""
    write_checkpoint(folder / "model")
    for name, text in problem_files().items():
        (folder / name).write_text(text)


def check_world(folder: Path) -> None:
    """Refuse a folder whose problems or weights are not those that write_world writes."""
    for name, text in problem_files().items():
        file = folder / name
        if not file.is_file() or file.read_text() != text:
            raise ValueError(
                f"[smol] dir: expected a new folder, or one that this version made; {file} differs"
            )
    check_weights(folder / "model")


def problem_files() -> dict[str, str]:
    """Return the text of every file of problems, by name: chains-train.jsonl, chains-test.jsonl ..."""
    return {
        f"{kind}-{end}.jsonl": as_jsonl(map(row, draw_exercises(kind, count, split, end)))
        for kind in KINDS
        for end, (split, count, row) in FILES.items()
    }


def draw_exercises(kind: str, count: int, split: Split, draw: str) -> list[Exercise]:
    """Draw distinct exercises of one kind and split; each name `draw` has its own random sequence."""
    seed = seed_of(SEED, "smol", kind, draw)
    return draw_different(KINDS[kind], question_of, count, seed=seed, split=split, section="smol")


def question_of(exercise: Exercise) -> str:
    return exercise.question


def as_jsonl(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(f"{json.dumps(row)}\n" for row in rows)
