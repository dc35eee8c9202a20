"""fastrl report RUN: write everything that a run folder holds on one HTML page."""

from __future__ import annotations

from dataclasses import dataclass

from fastrl.cli.arguments import asks_help, take_positional
from fastrl.config.flags import parse_flags
from fastrl.report.page import write_page


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOptions:
    """A run, or a pipeline with its stages, as one HTML page that works without network."""

    out: str | None = None
    """HTML to write. null: report.html in the run's folder."""
    max_completions: int = 20_000
    """Most completions of a stage on the page; of more, whole steps are left out, evenly. 0: all."""


def main(arguments: list[str]) -> int:
    """Write the page; print what is not on it, its path and size."""
    run_dir = "RUN" if asks_help(arguments) else take_positional(arguments, "report", "RUN")
    options = parse_flags(ReportOptions, None, arguments, prog="fastrl report RUN")
    written = write_page(run_dir, options.out, options.max_completions)
    for note in written.notes:
        print(note)
    print(f"{written.path} ({written.num_bytes / 2**20:.1f} MiB)")
    return 0
