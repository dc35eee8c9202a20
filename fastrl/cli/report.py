"""fastrl report RUN: everything that a run folder tells, on one HTML page."""

from __future__ import annotations

from dataclasses import dataclass

from fastrl.config.flags import parse_flags
from fastrl.report.page import write_page


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOptions:
    """A run, or a pipeline with its stages, as one HTML page that works without network."""

    out: str | None = None
    """HTML to write. null: report.html in the run's folder."""
    max_completions: int = 20_000
    """Most completions of a stage on the page; of more, whole steps are left out, evenly. 0: all."""


def report(arguments: list[str]) -> int:
    """`fastrl report RUN [--field value ...]`: write the page; print what is not on it, its path and size."""
    asks_help = any(flag in arguments for flag in ("-h", "--help"))
    if not asks_help and (not arguments or arguments[0].startswith("-")):
        got = f"{arguments[0]!r} in its place" if arguments else "nothing"
        raise ValueError(f"[report] RUN: expected it before any flag, got {got}")
    run_dir = "RUN" if asks_help else arguments.pop(0)
    options = parse_flags(ReportOptions, None, arguments, prog="fastrl report RUN")
    written = write_page(run_dir, options.out, options.max_completions)
    for note in written.notes:
        print(note)
    print(f"{written.path} ({written.num_bytes / 2**20:.1f} MiB)")
    return 0
