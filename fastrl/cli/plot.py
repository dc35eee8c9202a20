"""fastrl plot RUN [RUN ...]: plot the metrics of run folders as a PNG and as text."""

from __future__ import annotations

from dataclasses import dataclass

from fastrl.cli.arguments import take_positionals
from fastrl.config.flags import parse_flags
from fastrl.report.plot import plot_run, text_curves


@dataclass(frozen=True, slots=True, kw_only=True)
class PlotOptions:
    """Plot the metrics of run folders, with one curve per run in each panel."""

    out: str | None = None
    """PNG to write. null: curves.png in the first run's folder."""
    metrics: tuple[str, ...] = ()
    """Metrics to plot, such as eval/avg@16 eval/pass@4. Default: evaluations, rewards, lengths, loss etc."""


def main(arguments: list[str]) -> int:
    """Plot the runs; print their curves as text and the PNG's path."""
    runs = take_positionals(arguments)
    options = parse_flags(PlotOptions, None, arguments, prog="fastrl plot RUN [RUN ...]")
    path = plot_run(runs, options.out, options.metrics)
    print(text_curves(runs, metrics=options.metrics))
    print(path)
    return 0
