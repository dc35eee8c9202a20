"""Plots metrics of one or several runs: a PNG with a panel per metric, or lines of text."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastrl.report.sparkline import sparkline
from fastrl.runtime.run import read_metrics

# distinguishable for colour-blind readers and in print (Okabe and Ito)
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
PANELS = ("reward", "frac_reward_zero_std", "entropy", "kl", "completions/mean_length", "grad_norm", "loss")
PROBES = (
    "faithfulness/checker/correct/aligned", "faithfulness/judge/correct/aligned", "faithfulness/forced",
    "faithfulness/corruption", "diversity/effective", "diversity/faithful/effective",
)  # fmt: skip
MOST_OTHERS = 6
"""Largest number of panels of a run that logs none of the metrics above."""
SPARSE = ("eval/", "faithfulness/", "diversity/")
"""Metrics that are not measured in every step: plotted with markers."""
COLUMNS = 3
INK = "#333333"


@dataclass(frozen=True, slots=True)
class RunCurves:
    """A run's name and its metrics by step."""

    name: str
    lines: list[dict[str, Any]]

    def series(self, metric: str) -> tuple[list[int], list[float]]:
        """Return the steps and values at which the metric was logged."""
        points = [(line["step"], line[metric]) for line in self.lines if line.get(metric) is not None]
        return [step for step, _ in points], [value for _, value in points]


def plot_run(
    run_dirs: Sequence[str | Path], out: str | Path | None = None, metrics: Sequence[str] = ()
) -> Path:
    """Draw the runs' curves, one panel per metric; return the PNG's path.

    Thin lines are values per step, thick ones running means; an evaluation's band is its 95 % interval over
    problems.

    Args:
        run_dirs: run folders; their names are the labels.
        out: the file to write. None: curves.png in the first run's folder.
        metrics: metrics to draw; empty: choose_panels decides.
    Raises:
        FileNotFoundError: a folder has no metrics.   ValueError: no folder, no logged step, or an unknown
            metric.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    runs = read_runs(run_dirs)
    panels = choose_panels(runs, metrics)
    if not panels:
        raise ValueError("[plot] metrics: expected at least one that is not null, got none")
    rows = math.ceil(len(panels) / COLUMNS)
    figure = Figure(figsize=(4.4 * COLUMNS, 2.7 * rows + 0.7), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, COLUMNS, squeeze=False).flat
    for axes, metric in zip(grid, panels, strict=False):
        draw_panel(axes, runs, metric)
    for axes in list(grid)[len(panels) :]:
        axes.set_axis_off()
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=min(4, len(runs)), frameon=False)
    path = Path(run_dirs[0]) / "curves.png" if out is None else Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=140, facecolor="white")
    return path


def read_runs(run_dirs: Sequence[str | Path]) -> list[RunCurves]:
    """Read the runs' metrics; names are the folders' names, or their paths if names repeat."""
    if not run_dirs:
        raise ValueError("[plot] runs: expected at least one run folder, got none")
    folders = [Path(folder) for folder in run_dirs]
    for folder in folders:
        if not (folder / "metrics.jsonl").is_file():
            raise FileNotFoundError(
                f"[plot] runs: expected a run folder with metrics.jsonl, got {str(folder)!r}"
            )
    last = [folder.resolve().name for folder in folders]
    names = last if len(set(last)) == len(last) else [str(folder) for folder in folders]
    runs = [
        RunCurves(name, read_metrics(folder / "metrics.jsonl"))
        for name, folder in zip(names, folders, strict=True)
    ]
    if not any(run.lines for run in runs):
        raise ValueError(f"[plot] runs: expected at least one logged step, got none in {', '.join(names)}")
    return runs


def choose_panels(runs: Sequence[RunCurves], metrics: Sequence[str] = ()) -> list[str]:
    """Return the given metrics, or by default those logged of evaluations, rewards, PROBES and PANELS.

    A stage that logs none of these gets its first metrics.
    """
    logged = {
        name: None
        for run in runs
        for line in run.lines
        for name, value in line.items()
        if name != "step" and value is not None
    }
    for name in metrics:
        if name not in logged:
            raise ValueError(f"[plot] metrics: expected some of {sorted(logged)}, got {name!r}")
    if metrics:
        return list(metrics)
    evaluations = sorted(name for name in logged if is_evaluation(name) and not is_smaller_k(name, logged))
    rewards = sorted(name for name in logged if name.startswith("rewards/") and name.endswith("/mean"))
    panels = [*evaluations, *rewards, *(name for name in (*PROBES, *PANELS) if name in logged)]
    return panels or [name for name in logged if not name.startswith("time/")][:MOST_OTHERS] or list(logged)


EVALUATIONS = (
    "eval/avg@", "eval/maj@", "eval/pass@", "eval/transfer", "eval/two_stage_avg@",
    "eval/executor_alone_avg@",
)  # fmt: skip


def is_evaluation(name: str) -> bool:
    """Return True for eval/avg@16, eval/transfer_auc and the like, without their intervals' bounds."""
    return name.startswith(EVALUATIONS) and name.count("/") == 1


def is_smaller_k(name: str, logged: Collection[str]) -> bool:
    """Return True for eval/pass@2 if eval/pass@4 is logged too."""
    kind, _, k = name.partition("@")
    if not k.isdigit():
        return False
    others = (other.partition("@")[2] for other in logged if other.startswith(f"{kind}@"))
    return any(other.isdigit() and int(other) > int(k) for other in others)


def draw_panel(axes: Any, runs: Sequence[RunCurves], metric: str) -> None:
    for index, run in enumerate(runs):
        color = COLORS[index % len(COLORS)]
        steps, values = run.series(metric)
        if metric.startswith(SPARSE):
            axes.plot(steps, values, color=color, marker="o", markersize=3.5, linewidth=1.8, label=run.name)
            draw_interval(axes, run, metric, color)
        else:
            axes.plot(steps, values, color=color, linewidth=0.7, alpha=0.35)
            axes.plot(steps, running_mean(values), color=color, linewidth=1.8, label=run.name)
    axes.set_title(metric, loc="left", fontsize=10, color=INK)
    axes.grid(axis="y", color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, color="#bbbbbb", labelcolor=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#bbbbbb")
    axes.set_xlabel("step", fontsize=8, color=INK)
    axes.xaxis.get_major_locator().set_params(integer=True)


def draw_interval(axes: Any, run: RunCurves, metric: str, color: str) -> None:
    steps, low = run.series(f"{metric}/low")
    _, high = run.series(f"{metric}/high")
    if steps and len(low) == len(high):
        axes.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)


def running_mean(values: Sequence[float], window: int = 5) -> list[float]:
    """Average each value with up to window - 1 values before it."""
    means = []
    for end in range(1, len(values) + 1):
        recent = values[max(0, end - window) : end]
        means.append(math.fsum(recent) / len(recent))
    return means


def text_curves(run_dirs: Sequence[str | Path], width: int = 48, metrics: Sequence[str] = ()) -> str:
    """Return the same panels as text: one line per metric and run with first value, curve, last value."""
    runs = read_runs(run_dirs)
    lines = []
    label = max(len(run.name) for run in runs)
    for metric in choose_panels(runs, metrics):
        lines.append(metric)
        for run in runs:
            _, values = run.series(metric)
            if values:
                curve = sparkline(values, width)
                lines.append(f"  {run.name:<{label}}  {values[0]:>9.4g} {curve} {values[-1]:.4g}")
    return "\n".join(lines)
