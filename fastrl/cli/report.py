"""fastrl report RUN: all that a run folder holds on one HTML page, written, or served while it runs."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from fastrl.cli.arguments import asks_help, take_flag, take_positional
from fastrl.config import refuse
from fastrl.config.flags import parse_flags
from fastrl.report.page import write_page
from fastrl.report.page.serve import FollowedPage, Server


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOptions:
    """A run, or a pipeline with its stages, as one HTML page that works without network. With --serve it is
    not written but served on 127.0.0.1, and follows the run until Ctrl-C."""

    out: str | None = None
    """HTML to write. null: report.html in the run's folder."""
    max_completions: int = 20_000
    """Most completions of a stage on the page; of more, whole steps are left out, evenly. 0: all."""
    port: int = 0
    """With --serve: where; 0: any port that is free."""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            refuse("report", "port", "0 to 65535", self.port)


def main(arguments: list[str]) -> int:
    """Write the page, and print what is not on it, its path and size; or serve it."""
    serves = take_flag(arguments, "--serve")
    run_dir = "RUN" if asks_help(arguments) else take_positional(arguments, "report", "RUN")
    options = parse_flags(ReportOptions, None, arguments, prog="fastrl report RUN [--serve]")
    if serves:
        return serve(run_dir, options)
    if options.port:
        refuse("report", "port", "0, since --serve is not set", options.port)
    written = write_page(run_dir, options.out, options.max_completions)
    for note in written.notes:
        print(note)
    print(f"{written.path} ({written.num_bytes / 2**20:.1f} MiB)")
    return 0


def serve(run_dir: str, options: ReportOptions) -> int:
    """Print the address and serve the page until Ctrl-C."""
    if options.out is not None:
        refuse("report", "out", "null, since --serve is set", options.out)
    if options.max_completions < 0:
        refuse("report", "max_completions", ">= 0", options.max_completions)
    with Server(FollowedPage(run_dir, options.max_completions), options.port) as server:
        print(f"{server.address} follows {run_dir}; Ctrl-C ends it", flush=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()
    return 0
