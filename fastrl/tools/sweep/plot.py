"""A sweep's curves: a panel a metric, a line a combination, its mean over seeds within its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastrl.methods.tracelift.calibration import style
from fastrl.report.intervals import Interval, mean_curve
from fastrl.report.plot import COLORS, INK, running_mean
from fastrl.tools.sweep.table import Combination, short_values

STYLES = ("-", "--", ":", "-.")
WINDOW = 5
PANELS_A_ROW = 2


def plot_sweep(combinations: Sequence[Combination], metrics: Sequence[str], out: Path) -> Path:
    """Draw the means over finished runs and their 95 % t-intervals over seeds; returns the PNG's path.

    Evaluations are drawn as they are; of other metrics each run's running mean is taken first.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(PANELS_A_ROW, len(metrics))
    rows = math.ceil(len(metrics) / columns)
    entries = math.ceil(len(combinations) / columns)
    figure = Figure(figsize=(5.4 * columns, 3.2 * rows + 0.22 * entries + 0.3), layout="constrained")
    FigureCanvasAgg(figure)
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    labels = [label(values) for values in short_values(combinations)]
    for axes, metric in zip(grid, metrics, strict=False):
        draw(axes, combinations, labels, metric)
    for axes in grid[len(metrics) :]:
        axes.set_axis_off()
    lines = {line.get_label(): line for axes in figure.axes for line in axes.get_lines()}
    shown = [each for each in labels if each in lines]
    figure.legend(
        [lines[each] for each in shown],
        shown,
        loc="outside upper left",
        ncols=columns,
        frameon=False,
        fontsize=9,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=140, facecolor="white")
    return out


def label(values: dict[str, str]) -> str:
    """loss.kl_coef=0.001, data.path=a.jsonl"""
    return ", ".join(f"{name}={value}" for name, value in values.items()) or "all runs"


def draw(axes: Any, combinations: Sequence[Combination], labels: Sequence[str], metric: str) -> None:
    """One panel, the runs' own curves thin. It spans what these span; of two or three seeds, the interval of
    the mean is wider and may leave it."""
    smooth = "eval/" not in metric
    reached: list[float] = []
    for index, (combination, name) in enumerate(zip(combinations, labels, strict=True)):
        series = [known for run in combination.runs if (known := run.series(metric))[0]]
        if smooth:
            series = [(steps, running_mean(values, WINDOW)) for steps, values in series]
        if series:
            draw_band(axes, mean_curve(series), index, name, marker=None if smooth else "o")
            for steps, values in series:
                axes.plot(steps, values, color=COLORS[index % len(COLORS)], linewidth=0.7, alpha=0.35)
            reached += [value for _, values in series for value in values]
    if reached:
        room = 0.08 * (max(reached) - min(reached)) or 0.5
        axes.set_ylim(min(reached) - room, max(reached) + room)
    title = f"{metric}, running mean of {WINDOW} steps" if smooth else metric
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.grid(axis="y", color="#e5e5e5", linewidth=0.8)
    axes.set_xlabel("step", fontsize=8, color=INK)
    axes.xaxis.get_major_locator().set_params(integer=True)
    style(axes)


def draw_band(axes: Any, curve: dict[int, Interval], index: int, name: str, marker: str | None) -> None:
    """A combination's mean and its interval, which a single run has not."""
    color, line = COLORS[index % len(COLORS)], STYLES[index // len(COLORS) % len(STYLES)]
    means = [at.mean for at in curve.values()]
    axes.plot(
        list(curve), means, color=color, linestyle=line, linewidth=1.8, marker=marker, markersize=3.5,
        label=name,
    )  # fmt: skip
    low = [math.nan if at.low is None else at.low for at in curve.values()]
    high = [math.nan if at.high is None else at.high for at in curve.values()]
    axes.fill_between(list(curve), low, high, color=color, alpha=0.15, linewidth=0)
