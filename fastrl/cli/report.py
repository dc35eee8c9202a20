"""fastrl report RUN: write a run folder as one HTML page, or serve it while the run goes on."""

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
    """Write a run, or a pipeline with its stages, as one HTML page that works offline. With --serve, serve
    the page on 127.0.0.1 and update it until Ctrl-C."""

    out: str | None = None
    """HTML file to write. null: report.html in the run's folder."""
    max_completions: int = 20_000
    """Largest number of completions per stage; beyond it, evenly spaced steps are kept. 0: all."""
    port: int = 0
    """Port for --serve; 0: any free port."""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            refuse("report", "port", "0 to 65535", self.port)


def main(arguments: list[str]) -> int:
    """Write the page and print its notes, path and size; or serve it."""
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
        print(f"{server.address} serves {run_dir}; stop with Ctrl-C", flush=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()
    return 0
