"""How far the training of a tiny world's models is, read from the folders that are being made."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

from fastrl.report.console import EVERY_S, Console
from fastrl.report.pace import Glance
from fastrl.report.text import last_line
from fastrl.tiny.folders import default_cache


def shown_lessons(cache: Path | None = None) -> Console:
    """Show on stderr the steps of all models that are taught; nothing if every world is in the cache.

    Args:
        cache: folder of worlds; None: $FASTRL_CACHE/tiny, or ~/.cache/fastrl/tiny.
    """
    return Console(None, unit="step", every_s=EVERY_S, watch=Lessons(cache or default_cache()))


class Lessons:
    """Sums the steps of lessons that have begun since it was made; an ended one has no folder any more."""

    def __init__(self, cache: Path) -> None:
        self.cache, self.since = cache, time.time() - 1  # file systems' clocks are behind
        self.steps: dict[Path, tuple[int, int]] = {}
        """Done and all, by the folder of the lesson."""

    def __call__(self) -> Glance | None:
        begun = {recipe.parent for recipe in self.cache.glob(".*/.*/sft.yaml")}
        for folder in begun:
            self._look(folder)
        for folder in self.steps.keys() - begun:
            self.steps[folder] = (self.steps[folder][1],) * 2
        if not self.steps:
            return None
        names = sorted(folder.name.lstrip(".") for folder in self.steps if folder in begun)
        done, total = (sum(column) for column in zip(*self.steps.values(), strict=True))
        return Glance(f"teaching {', '.join(names)}" if names else "", done, total)

    def _look(self, folder: Path) -> None:
        try:
            if folder.stat().st_mtime < self.since and folder not in self.steps:
                return  # left by a process that was killed
            total = re.search(r"num_steps: (\d+)", (folder / "sft.yaml").read_text())
            line = last_line(folder / "run/metrics.jsonl")
        except FileNotFoundError:  # it has just ended
            return
        if total is not None:
            self.steps[folder] = (json.loads(line)["step"] if line else 0, int(total[1]))
