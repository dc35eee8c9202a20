"""Atomic checkpoints: written to a temporary folder, renamed when complete, verified by digest when read.

step-000050/       a plain Hugging Face folder: weights, config.json, tokenizer, and README.md, its model card
    adapter/       the adapters, if only they are trained; the weights above have them merged
    trainer_state/ optimizer.safetensors and state.json, only for resuming the run

The files do not depend on the number of ranks.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from fastrl.policy.model import Policy
from fastrl.policy.optimizer import optimizer_tensors, restore_optimizer
from fastrl.policy.shard import Rows, rows_of
from fastrl.policy.tensor_file import write_rows
from fastrl.runtime.cache import sync, sync_all
from fastrl.runtime.distributed import Ranks
from fastrl.runtime.files import is_inside, open_regular

log = logging.getLogger(__name__)
TRAINER_STATE = "trainer_state"
"""Subfolder of a checkpoint with the trainer's files, so that programs which load all weight files of a
folder find only the model's."""
STATE, OPTIMIZER, CARD = "state.json", "optimizer.safetensors", "README.md"
SCORE = "score"
"""Key in a checkpoint's state with its score; the checkpoint with the highest is kept."""


class Saver:
    """Writes a run's checkpoints one at a time, and removes all but the last `keep_last` (0: none)
    and the best.

    Args:
        folder: folder of the checkpoints, on a file system that all ranks share.
        background: write in a thread, from a copy of this rank's part in host memory, while training
            continues.
    """

    def __init__(
        self, folder: Path, keep_last: int, ranks: Ranks | None = None, background: bool = False
    ) -> None:
        self.folder, self.keep_last, self.background = folder, keep_last, background
        self.ranks = ranks or Ranks()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def save(
        self, policy: Policy, optimizer: torch.optim.Optimizer, state: dict[str, Any], card: str = ""
    ) -> Path:
        """Write folder/step-N and return it; all ranks call it.

        Args:
            state: step, data position, and SCORE if any. Random numbers depend on (seed, step), so there is
                no generator state.
            card: text of README.md, on the first rank; "": no README.md.
        Raises: OSError: this checkpoint, or the previous one in the background, could not be written.
        """
        self.wait()
        final = self.folder / f"step-{state['step']:06d}"
        partial = self.folder / f".{final.name}.partial"
        if self.ranks.first:
            shutil.rmtree(partial, ignore_errors=True)
            (partial / TRAINER_STATE).mkdir(parents=True)
            if card:
                (partial / CARD).write_text(card, encoding="utf-8")
        self.ranks.wait()
        files: dict[str, dict[str, Rows]] = {}
        if policy.sharding or self.background:
            policy.save_all_but_weights(partial, writes=self.ranks.first)
            files = parts_of(policy, optimizer, self.ranks.rank, self.background)
        elif self.ranks.first:
            policy.save(partial)
            save_file(optimizer_tensors(policy, optimizer), partial / TRAINER_STATE / OPTIMIZER)
        if self.background:
            self._writing = self._thread.submit(self._write, partial, final, files, state)
        else:
            self._write(partial, final, files, state)
        return final

    def wait(self) -> None:
        """Wait until the last checkpoint is on disk. Raises OSError if it could not be written."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Wait for the last checkpoint, but not after an error, when other ranks may not join in."""
        if kind is None:
            self.wait()
        self._thread.shutdown(wait=kind is None)

    def _write(
        self, partial: Path, final: Path, files: Mapping[str, Mapping[str, Rows]], state: dict[str, Any]
    ) -> None:
        """Write this rank's part; the first rank completes the checkpoint when all have written theirs."""
        first, failed = self.ranks.first, list[tuple[int, str]]()
        try:
            for name, tensors in files.items():
                (partial / name).parent.mkdir(exist_ok=True)
                write_rows(partial / name, tensors, first)
        except OSError as error:
            if self.ranks.size == 1:
                raise
            failed = [(error.errno or 0, f"{error.strerror} (rank {self.ranks.rank})")]
        if failed := self.ranks.gather_in_background(failed):
            raise OSError(*failed[0], str(partial))
        inside = sorted(path for path in partial.rglob("*") if path.is_file() and path.name != CARD)
        own = inside[self.ranks.rank :: self.ranks.size]
        digests = self.ranks.gather_in_background(
            [(str(path.relative_to(partial)), digest(path)) for path in own]
        )
        if first:
            complete(partial, final, {**state, "files": dict(sorted(digests))})
            drop_old(self.folder, self.keep_last)
        self.ranks.gather_in_background([])


def parts_of(
    policy: Policy, optimizer: torch.optim.Optimizer, rank: int, copied: bool
) -> dict[str, dict[str, Rows]]:
    """Return {file: {tensor: rows that this rank writes}}."""
    moments = optimizer_tensors(policy, optimizer)
    tensors = {**policy.weight_files(), f"{TRAINER_STATE}/{OPTIMIZER}": moments}
    files = {file: rows_of(of, rank) for file, of in tensors.items()}
    if not copied:
        return files
    return {file: {name: rows.copied() for name, rows in of.items()} for file, of in files.items()}


def complete(partial: Path, final: Path, state: dict[str, Any]) -> None:
    """Write state.json, flush all files to disk and give the checkpoint its final name."""
    own = partial / TRAINER_STATE / STATE
    own.write_text(json.dumps(state, indent=2) + "\n")
    for path in partial.rglob("*.safetensors"):
        path.chmod(own.stat().st_mode)  # safetensors ignores the umask and denies other users
    sync_all(partial)
    remove(final)
    partial.rename(final)
    sync(final.parent)


def remove(checkpoint: Path) -> None:
    """Remove a checkpoint: rename it first, so that a kill never leaves an incomplete one under its name."""
    dropped = checkpoint.with_name(f".{checkpoint.name}.dropped")
    shutil.rmtree(dropped, ignore_errors=True)
    if checkpoint.exists():
        checkpoint.rename(dropped)
        shutil.rmtree(dropped)


def remove_partial(folder: Path) -> None:
    """Remove checkpoints that a killed process left half written or half removed."""
    for pattern in (".step-*.partial", ".step-*.dropped"):
        for path in folder.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def drop_old(folder: Path, keep_last: int) -> None:
    """Remove all checkpoints but the last `keep_last` and the best (highest score, the later on a tie).
    keep_last 0 removes none."""
    if not keep_last:
        return
    paths = complete_checkpoints(folder)
    scores = {path: state[SCORE] for path in paths if SCORE in (state := read_state(path))}
    best = max(scores, key=lambda path: (scores[path], path.name), default=None)
    for old in paths[:-keep_last]:
        if old != best:
            remove(old)


def complete_checkpoints(folder: Path) -> list[Path]:
    """Return the step-* folders, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def latest_checkpoint(folder: Path, ranks: Ranks | None = None) -> Path | None:
    """Return the newest intact checkpoint, the same on all ranks; None if there is none.

    Ranks share the verification. Damaged checkpoints are skipped with a warning.
    """
    ranks = ranks or Ranks()
    found = ranks.gather([path.name for path in complete_checkpoints(folder)] if ranks.first else [])
    for path in (folder / name for name in reversed(found)):
        damage = ranks.gather([reason for reason in [damaged(path, ranks)] if reason is not None])
        if not damage:
            return path
        if ranks.first:
            log.warning("checkpoint %s skipped: %s", path, damage[0])
    return None


def damaged(path: Path, ranks: Ranks | None = None) -> str | None:
    """Return how a checkpoint is damaged, as far as this rank's share of its files shows; None: intact."""
    rank, size = (0, 1) if ranks is None else (ranks.rank, ranks.size)
    if not trainer_file(path, STATE).exists():
        return f"{STATE} is missing"
    files = read_state(path).get("files")
    if not isinstance(files, dict):
        return f"{STATE} is unreadable"
    for name, expected in list(files.items())[rank::size]:
        if not is_inside(path, name):
            return f"{STATE} names {name!r}, which is outside the folder"
        if not (path / name).exists():
            return f"{name} is missing"
        if not (path / name).is_file():
            return f"{name} is not a regular file"
        if digest(path / name) != expected:
            return f"{name} has changed since it was written"
    return None


def read_state(path: Path) -> dict[str, Any]:
    """Return a checkpoint's state; empty if it can't be read."""
    try:
        with open_regular(trainer_file(path, STATE)) as file:
            state = json.loads(file.read())
    except (OSError, ValueError, RecursionError):
        return {}
    return state if isinstance(state, dict) else {}


def load_optimizer(path: Path, policy: Policy, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Load the optimiser from a checkpoint; return the checkpoint's state. The policy loads the weights."""
    with safe_open(trainer_file(path, OPTIMIZER), framework="pt") as file:
        restore_optimizer(policy, optimizer, file)
    state: dict[str, Any] = json.loads(trainer_file(path, STATE).read_text())
    return state


def trainer_file(checkpoint: Path, name: str) -> Path:
    """Return the path of a trainer's file in a checkpoint; fastrl 0.1 wrote it next to the model."""
    before = checkpoint / name
    return before if before.exists() else checkpoint / TRAINER_STATE / name


def digest(path: Path) -> str:
    """Return the SHA-256 of a regular file."""
    whole = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(1 << 20):
            whole.update(block)
    return whole.hexdigest()
