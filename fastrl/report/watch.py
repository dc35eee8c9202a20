"""Terminal page of a run folder: progress, metrics, alarms, the last completions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastrl.config.load import read_yaml
from fastrl.report.console import known, number
from fastrl.report.follow import FollowedLines, Line, read_live
from fastrl.report.pace import duration
from fastrl.report.page.curves import phases_of
from fastrl.report.sparkline import sparkline
from fastrl.report.text import fitted, printable

FIRST = (
    "reward", "loss", "accuracy", "completions/mean_length", "completions/clipped_ratio", "num_tokens",
    "frac_reward_zero_std", "entropy", "kl", "grad_norm", "learning_rate",
)  # fmt: skip
"""Metrics listed after evaluations and rewards, in this order; others follow if there is room."""
QUIET_S = 10.0
"""Seconds without an update of live.json after which a stage counts as stopped or hanging."""
NAME, VALUE, SHARE_OF_COMPLETIONS = 28, 10, 0.45


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSnapshot:
    """A snapshot of a run folder."""

    title: str
    kind: str
    lines: Sequence[Line]
    total: int | None
    """Steps of the whole run; None for stages without steps."""
    live: tuple[dict[str, Any], float] | None
    completions: Sequence[Line]
    completions_of: int
    """The step of these completions."""


class WatchedRun:
    """Reads a run's folder repeatedly; each read parses only new lines.

    Raises:
        FileNotFoundError: the folder is neither a run folder nor a pipeline's.
    """

    def __init__(self, folder: Path) -> None:
        if not any((folder / name).is_file() for name in ("config.yaml", "pipeline.yaml")):
            raise FileNotFoundError(
                f"[watch] RUN: expected a folder with config.yaml or pipeline.yaml, got {str(folder)!r}"
            )
        self.folder = folder
        self.files: dict[Path, FollowedLines] = {}

    def stage(self) -> Path | None:
        """Return the run's folder; for a pipeline, its latest stage's folder, or None before the first."""
        if (self.folder / "config.yaml").is_file():
            return self.folder
        begun = [path.parent for path in self.folder.glob("*/config.yaml")]
        return max(begun, key=lambda path: (path / "config.yaml").stat().st_mtime, default=None)

    def read(self) -> RunSnapshot:
        """Return a snapshot of the run."""
        title, stage = self.folder.resolve().name, self.stage()
        if stage is None:
            return RunSnapshot(
                title=title,
                kind="pipeline",
                lines=[],
                total=None,
                live=None,
                completions=[],
                completions_of=0,
            )
        if stage != self.folder:
            title = f"{title}/{stage.name}"
        config = read_yaml(stage / "config.yaml")
        logged = sorted((stage / "completions").glob("step-*.jsonl"))[-1:]
        wanted = [stage / "metrics.jsonl", *logged]
        self.files = {path: self.files.get(path) or FollowedLines(path) for path in wanted}
        lines, *rows = [self.files[path].read() for path in wanted]
        return RunSnapshot(
            title=title, kind=config["stage"], lines=lines,
            total=config.get("train", {}).get("num_steps"), live=read_live(stage),
            completions=rows[0] if rows else [],
            completions_of=int(logged[0].stem.removeprefix("step-")) if logged else 0,
        )  # fmt: skip

    def is_finished(self, snapshot: RunSnapshot) -> bool:
        """Return True if the last step is logged, or the file that ends a stage exists."""
        stage = self.stage()
        if snapshot.live is not None or stage is None:
            return False
        if snapshot.total is not None:
            return bool(snapshot.lines) and snapshot.lines[-1]["step"] >= snapshot.total
        return any((stage / name).is_file() for name in ("counts.json", "funnel.json"))


def page(snapshot: RunSnapshot, finished: bool, width: int, height: int) -> list[str]:
    """Return at most `height` lines of at most `width` columns, without a control character."""
    head = [headline(snapshot, finished), *state(snapshot), *alarms(snapshot.lines), ""]
    shown = completions(snapshot, width)
    room = max(0, height - len(head))
    rows = table(snapshot.lines, width, room - min(len(shown), int(room * SHARE_OF_COMPLETIONS)))
    lines = [*head, *rows, *shown][:height]
    return [fitted(printable_line(line), width) for line in lines]


def printable_line(line: str) -> str:
    """Apply `printable` but keep runs of spaces, which align the columns."""
    return " ".join(printable(word) for word in line.split(" "))


def headline(snapshot: RunSnapshot, finished: bool) -> str:
    """Format a line such as `run | rl | step 12 of 60 | 3.1s/step | about 2m to go`."""
    step = snapshot.lines[-1]["step"] if snapshot.lines else 0
    of = "" if snapshot.total is None else f" of {snapshot.total}"
    parts = [snapshot.title, snapshot.kind, f"step {step}{of}"]
    seconds = seconds_per_step(snapshot.lines)
    if seconds:
        parts.append(f"{number(seconds)}s/step")
        if snapshot.total is not None and step < snapshot.total:
            parts.append(f"about {duration(seconds * (snapshot.total - step))} to go")
    if finished:
        parts.append("finished")
    elif snapshot.live is None or snapshot.live[1] > QUIET_S:
        parts.append("not running")
    return " | ".join(parts)


def seconds_per_step(lines: Sequence[Line]) -> float | None:
    """Return the mean time of the last steps, as the sum of their phases; None if unknown."""
    recent = [line for line in lines[-10:] if line["step"] > 0]
    times = [sum(line[name] or 0.0 for name in phases_of(list(line))[0]) for line in recent]
    return sum(times) / len(times) if times and sum(times) else None


def state(snapshot: RunSnapshot) -> list[str]:
    """Return a line with the stage's current activity and memory, if there is a live.json."""
    if snapshot.live is None:
        return []
    now, age = snapshot.live
    if age > QUIET_S:
        return [f"no update for {duration(age)}; last activity: {now['doing']}"]
    total = "" if not now["total"] else f" of {now['total']}"
    memory = f"memory {number(now['memory_gib'])} GiB"
    if now["device_gib"]:
        memory += f", GPU {number(now['device_gib'])} GiB"
    return [f"{now['unit']} {now['done']}{total}, {now['doing']} | {memory}"]


def alarms(lines: Sequence[Line]) -> list[str]:
    """Return a line per alarm that the last step raised."""
    raised = [
        name for name, value in (lines[-1] if lines else {}).items() if name.startswith("alarm/") and value
    ]
    return [f"! {name}" for name in raised]


def table(lines: Sequence[Line], width: int, most: int) -> list[str]:
    """Return one line per metric with name, last value and curve, at most `most`."""
    speed = tokens_per_second(lines)
    found = [] if speed is None else [f"{'tokens/s':<{NAME}}{number(speed):>{VALUE}}"]
    names = dict.fromkeys(name for line in lines for name in line)
    for name in sorted(names, key=rank_of):
        if len(found) >= most:
            break
        if name == "step" or name.startswith("alarm/") or name.endswith(("/low", "/high")):
            continue
        values = [float(value) if known(value := line.get(name)) else None for line in lines]
        last = next((value for value in reversed(values) if value is not None), None)
        if last is not None:
            curve = sparkline(values, width - NAME - VALUE - 2) if width > NAME + VALUE + 2 else ""
            found.append(f"{fitted(name, NAME):<{NAME}}{number(last):>{VALUE}}  {curve}")
    return found[:most]


def rank_of(name: str) -> tuple[int, int]:
    """Return the sort key of a metric: reward, evaluations and reward components, FIRST, others, engine/."""
    if name == "reward":
        return 0, 0
    if name.startswith(("eval/", "rewards/")):
        return 1, 0
    if name in FIRST:
        return 2, FIRST.index(name)
    return (4 if name.startswith("engine/") else 3), 0


def tokens_per_second(lines: Sequence[Line]) -> float | None:
    """Return the tokens of the last steps divided by their time; None if unknown."""
    recent = [line for line in lines[-10:] if known(line.get("num_tokens"))]
    seconds = seconds_per_step(recent)
    return sum(line["num_tokens"] for line in recent) / (seconds * len(recent)) if seconds else None


def completions(snapshot: RunSnapshot, width: int) -> list[str]:
    """Return the last step's completions, two lines each: outcome and prompt, then the completion's end."""
    found = [] if not snapshot.completions else ["", f"completions of step {snapshot.completions_of}"]
    for row in snapshot.completions:
        text = printable(str(row["completion"]))
        found.append(f"{outcome(row)} | {printable(str(row['prompt']))}")
        found.append(f"  {text if len(text) < width else '…' + text[-(width - 4) :]}")
    return found


def outcome(row: Mapping[str, Any]) -> str:
    reward = row.get("reward")
    return f"{row.get('verdict') or '-'}, reward {number(reward) if known(reward) else '-'}"
