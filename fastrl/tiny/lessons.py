"""Progress of training a tiny world's models, read from the folders in progress."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

from fastrl.report.console import EVERY_S, Console
from fastrl.report.pace import Activity
from fastrl.report.text import last_line
from fastrl.tiny.folders import default_cache


def shown_lessons(cache: Path | None = None) -> Console:
    """Show the training steps of all models on stderr; nothing if every world is in the cache.

    Args:
        cache: folder of worlds; None: $FASTRL_CACHE/tiny, or ~/.cache/fastrl/tiny.
    """
    return Console(None, unit="step", every_s=EVERY_S, watch=Lessons(cache or default_cache()))


class Lessons:
    """Sums the steps of trainings started after its creation; a finished training has no folder any more."""

    def __init__(self, cache: Path) -> None:
        self.cache, self.since = cache, time.time() - 1  # clocks of file systems lag
        self.steps: dict[Path, tuple[int, int]] = {}
        """(steps done, all steps) by the training's folder."""

    def __call__(self) -> Activity | None:
        begun = {recipe.parent for recipe in self.cache.glob(".*/.*/sft.yaml")}
        for folder in begun:
            self._update(folder)
        for folder in self.steps.keys() - begun:
            self.steps[folder] = (self.steps[folder][1],) * 2
        if not self.steps:
            return None
        names = sorted(folder.name.lstrip(".") for folder in self.steps if folder in begun)
        done, total = (sum(column) for column in zip(*self.steps.values(), strict=True))
        return Activity(f"training {', '.join(names)}" if names else "", done, total)

    def _update(self, folder: Path) -> None:
        try:
            if folder.stat().st_mtime < self.since and folder not in self.steps:
                return  # left over from a killed process
            total = re.search(r"num_steps: (\d+)", (folder / "sft.yaml").read_text())
            line = last_line(folder / "run/metrics.jsonl")
        except FileNotFoundError:  # the training has just finished
            return
        if total is not None:
            self.steps[folder] = (json.loads(line)["step"] if line else 0, int(total[1]))
