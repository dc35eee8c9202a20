"""The run folder, which holds everything about a run.

config.yaml         the resolved configuration, written before step 0
environment.json    commit, versions, device
metrics.jsonl       one line per step, under TRL's metric names
completions/        step-000010.jsonl: every rollout of the step with its cuts, continuations and rewards
faithfulness/       step-000010.jsonl: every response that was measured, its labels and probe results
checkpoints/        step-000050/: a plain Hugging Face folder, with trainer_state/ for resuming
"""

from __future__ import annotations

import json
import math
import platform
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from fastrl.config import Config, differences, in_use
from fastrl.config.load import read_stored, to_yaml
from fastrl.runtime.files import append_text, is_temporary, replacing
from fastrl.runtime.versions import installed_versions
from fastrl.runtime.watchdog import Watchdog

# Options that a resumed run may change: they set when to stop, what to write, or how to save memory, but not
# the result. (With rollout.max_staleness, save_every also decides which batches are on-policy.)
MAY_CHANGE = (
    "run.dir", "run.save_every", "run.keep_last", "run.keep_best", "run.async_save", "train.shard",
    "train.shard_gradients", "train.offload", "run.log_completions_every", "run.report_to",
    "run.hang_timeout_s", "train.num_steps", "train.max_bad_steps", "sizes", "alarm.stop_on",
    "train.tokens_per_microbatch", "model.gradient_checkpointing", "engine.max_batch_tokens", "engine.sleep",
    "transfer.engine.max_batch_tokens", "transfer.engine.sleep",
    "uplift.executor.engine.max_batch_tokens", "uplift.executor.engine.sleep",
)  # fmt: skip


class Run:
    """An open run folder: appends metrics per step and times the phases of a step."""

    def __init__(self, folder: Path, writes: bool = True) -> None:
        self.folder, self.writes = folder, writes
        self.seconds: dict[str, float] = defaultdict(float)
        self.phase = "start"
        """Current phase, for messages."""
        self.since = time.perf_counter()
        """Start of the current phase."""
        self.watchdog: Watchdog | None = None
        """Set while a stage trains."""

    @classmethod
    def start(cls, config: Config, writes: bool = True) -> Run:
        """Create the run folder, or open it if it holds the same run.

        Args:
            writes: False on all ranks but one.
        Raises: ValueError: run.dir is empty, or the folder holds another run or other files.
        """
        if not config.run.dir:
            raise ValueError("[run] dir: expected a folder for the run, got ''; pass --run.dir runs/NAME")
        run = cls(Path(config.run.dir), writes)
        if not writes:
            return run
        run._claim(config)
        run.folder.mkdir(parents=True, exist_ok=True)
        # written first: a restart recognises the folder by it, wherever this process is killed
        write_atomic(run.folder / "config.yaml", to_yaml(config))
        for folder in (run.checkpoints, run.completions):
            folder.mkdir(exist_ok=True)
        write_atomic(run.folder / "environment.json", json.dumps(environment(), indent=2) + "\n")
        return run

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def completions(self) -> Path:
        return self.folder / "completions"

    @property
    def metrics_file(self) -> Path:
        return self.folder / "metrics.jsonl"

    def _claim(self, config: Config) -> None:
        """Raise ValueError if the folder holds another run or other files."""
        saved = self.folder / "config.yaml"
        if saved.exists():
            changed = [
                name for name in differences(read_stored(saved), in_use(config)) if name not in MAY_CHANGE
            ]
            if changed:
                raise ValueError(
                    f"[run] dir: {self.folder} holds a run whose {', '.join(changed)} differ; "
                    "choose another folder, or use the same values to resume it"
                )
        elif not is_free(self.folder, saved.name):
            raise ValueError(
                f"[run] dir: {self.folder} is not empty and holds no fastrl run; choose another folder"
            )

    @contextmanager
    def time(self, phase: str) -> Iterator[None]:
        """Add the block's wall time to the step's `time/<phase>_s`."""
        start = time.perf_counter()
        self.enter(phase)
        try:
            yield
            self.enter(f"after {phase}")  # not after an error, whose message names the phase
        finally:
            self.seconds[phase] += time.perf_counter() - start

    def enter(self, phase: str) -> None:
        """Set the current phase; the time between two phases is a phase too."""
        self.phase, self.since = phase, time.perf_counter()
        if self.watchdog is not None:
            self.watchdog.enter(phase)

    def log(self, step: int, metrics: dict[str, float]) -> dict[str, float]:
        """Append the step's metrics, with the phases timed since the last line; return the line."""
        line = {"step": step, **metrics, **{f"time/{phase}_s": s for phase, s in self.seconds.items()}}
        self.seconds.clear()
        if not self.writes:
            return line
        append_text(self.metrics_file, json.dumps({key: finite(value) for key, value in line.items()}) + "\n")
        return line

    def rewind(self, step: float = math.inf) -> None:
        """Remove the lines of steps after `step`, which will be computed again, and a truncated last line."""
        if self.writes and self.metrics_file.exists():
            kept = [line for line in read_metrics(self.metrics_file) if line["step"] <= step]
            write_atomic(self.metrics_file, "".join(json.dumps(line) + "\n" for line in kept))

    def log_completions(self, step: int, rows: Iterable[dict[str, Any]]) -> None:
        """Write the step's rollouts to completions/."""
        if not self.writes:
            return
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_atomic(self.completions / f"step-{step:06d}.jsonl", text)


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics file, without a last line that a kill has truncated."""
    lines = file.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def finite(value: Any) -> Any:
    """Return the value, or None if it is NaN or infinite, which JSON can't hold."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def is_free(folder: Path, first: str) -> bool:
    """Return True if the folder is missing, empty, or holds only temporary files of its first file."""
    return not folder.is_dir() or all(is_temporary(file, folder / first) for file in folder.iterdir())


def write_atomic(path: Path, text: str) -> None:
    """Write the file atomically: after a kill it holds either the old text or the new one."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def environment() -> dict[str, Any]:
    """Return what is needed to reproduce the run: commit, versions, hardware."""
    return {
        "commit": commit(),
        "packages": installed_versions(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
    }


def commit() -> str | None:
    """Return the source tree's commit, with a + if it has changes; None outside a checkout."""
    here = Path(__file__).parent

    def git(*words: str) -> str | None:
        try:
            return subprocess.run(
                ["git", *words], cwd=here, capture_output=True, text=True, check=True
            ).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return None

    head = git("rev-parse", "HEAD")
    return head and head + ("+" if git("status", "--porcelain") else "")
