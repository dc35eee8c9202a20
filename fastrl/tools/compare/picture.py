"""Plots a reference's bands, optionally with a run over them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastrl.methods.tracelift.calibration import style
from fastrl.report.plot import COLORS, INK, SPARSE
from fastrl.tools.compare.bands import Band, Block, block_values
from fastrl.tools.compare.findings import Finding
from fastrl.tools.compare.reference import Reference
from fastrl.tools.compare.runs import Record

PANELS, PANELS_A_ROW, DPI = 12, 4, 70
FIRST = ("eval/", "rewards/", "reward", "entropy", "completions/mean", "pair_", "loss", "grad_norm")
"""Prefixes of the metrics to draw, in order of priority after metrics outside their bands."""
OUT_OF_BAND = "#d40000"


def draw_reference(
    reference: Reference, out: Path, run: Record | None = None, findings: Sequence[Finding] = ()
) -> Path:
    """Plot one panel per metric with the band, all seeds and their median; return the PNG's path.

    The run has another colour, with red points outside the band.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = choose(reference, findings)
    columns = min(PANELS_A_ROW, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(3.4 * columns, 2.4 * rows + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, (stage, metric) in zip(grid, panels, strict=False):
        draw(axes, reference, stage, metric, run)
        title = f"{stage}: {metric}" if len(reference.bands) > 1 else metric
        axes.set_title(title, loc="left", fontsize=9, color=INK)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    lines = {str(line.get_label()): line for axes in figure.axes for line in axes.get_lines()}
    shown = {label: line for label, line in lines.items() if not label.startswith("_")}
    figure.legend(
        list(shown.values()), list(shown), loc="outside upper left", ncols=4, frameon=False, fontsize=8
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=DPI, facecolor="white")
    return out


def choose(reference: Reference, findings: Sequence[Finding]) -> list[tuple[str, str]]:
    """Choose (stage, metric) of the panels: metrics that are not inside, then those in FIRST."""
    out = [(finding.stage, finding.metric) for finding in findings if finding.verdict != "inside"]
    known = [
        (stage, name)
        for stage, by_block in reference.bands.items()
        for name in dict.fromkeys(name for metrics in by_block.values() for name in metrics)
    ]
    ranked = [pair for start in FIRST for pair in known if pair[1].startswith(start)]
    return list(dict.fromkeys([*out, *ranked]))[:PANELS]


def draw(axes: Any, reference: Reference, stage: str, metric: str, run: Record | None) -> None:
    """Draw one panel with a point in the middle of each block; evaluations are at the block's end."""
    last = max(last for _, last in reference.bands[stage])
    bands = {
        block: metrics[metric]
        for block, metrics in reference.bands[stage].items()
        if metric in metrics and (block != (1, last) or len(reference.bands[stage]) <= 2)
    }
    middles = [step_of(block, metric) for block in bands]
    axes.fill_between(
        middles,
        [band.low for band in bands.values()],
        [band.high for band in bands.values()],
        color=COLORS[0],
        alpha=0.15,
        linewidth=0,
    )
    for seed in range(len(reference.seeds)):
        values = [band.seeds[seed] for band in bands.values()]
        axes.plot(middles, values, color=COLORS[0], linewidth=0.6, alpha=0.4)
    medians = [band.median for band in bands.values()]
    label = f"{reference.name}, {len(reference.seeds)} seeds"
    axes.plot(middles, medians, color=COLORS[0], linewidth=1.6, marker="o", markersize=2.5, label=label)
    if run is not None and stage in run.stages:
        draw_run(axes, run, stage, metric, bands)
    axes.set_xlabel("step", fontsize=8, color=INK)
    style(axes)


def step_of(block: Block, metric: str) -> float:
    return block[1] if metric.startswith(SPARSE) else sum(block) / 2


def draw_run(axes: Any, run: Record, stage: str, metric: str, bands: dict[Block, Band]) -> None:
    lines = run.stages[stage].lines
    points = {
        step_of(block, metric): (value, bands[block].low <= value <= bands[block].high)
        for block in bands
        if (value := block_values(lines, block).get(metric)) is not None
    }
    axes.plot(
        list(points), [value for value, _ in points.values()], color=COLORS[4], linewidth=1.6, label=run.name
    )
    left = {middle: value for middle, (value, inside) in points.items() if not inside}
    if left:
        axes.plot(
            list(left), list(left.values()), color=OUT_OF_BAND, marker="o", markersize=4, linestyle="none",
            label="outside",
        )  # fmt: skip
