"""Calibration plot of a reward model: mean gold total against mean score per bin, and the bins' counts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastrl.methods.tracelift.rubric_agreement import Bin, calibration_error
from fastrl.report.plot import COLORS, INK


def plot_calibration(bins: Sequence[Bin], out: Path) -> Path:
    """Plot mean gold total against mean score per bin, with the bins' counts below; return the PNG's path."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    points, counts = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    points.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1, linestyle="--", label="calibrated")
    points.plot(
        [bin.score for bin in bins], [bin.total for bin in bins], color=COLORS[0], marker="o",
        markersize=5, linewidth=1.8, label="reward model",
    )  # fmt: skip
    points.set(xlim=(0, 1), ylim=(0, 1))
    points.set_title(f"calibration error {calibration_error(bins):.3f}", loc="left", fontsize=10, color=INK)
    points.set_ylabel("gold total", fontsize=8, color=INK)
    points.legend(frameon=False, fontsize=8, loc="upper left")
    counts.bar(
        [bin.low for bin in bins],
        [bin.count for bin in bins],
        [bin.high - bin.low for bin in bins],
        align="edge",
        color=COLORS[0],
        edgecolor="white",
    )
    counts.set_ylabel("traces", fontsize=8, color=INK)
    counts.set_xlabel("score", fontsize=8, color=INK)
    for axes in (points, counts):
        style(axes)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=140, facecolor="white")
    return out


def style(axes: Any) -> None:
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, color="#bbbbbb", labelcolor=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#bbbbbb")
