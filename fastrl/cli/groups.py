"""fastrl groups build: build groups of traces from a file of problems; print counts of kept and dropped."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from fastrl.check.groups import check_groups
from fastrl.config import GroupsConfig
from fastrl.config.flags import parse_flags
from fastrl.methods.tracelift.groups.counts import tables
from fastrl.stages.groups import read_counts, run_groups

USAGE = "fastrl groups build --data.path FILE --run.dir FOLDER"


def main(arguments: list[str]) -> int:
    """Build the groups; print the counts and the page's path."""
    if arguments[:1] != ["build"]:
        got = repr(arguments[0]) if arguments else "nothing"
        raise ValueError(f"[groups] command: expected build, got {got}: {USAGE}")
    config = parse_flags(GroupsConfig, None, arguments[1:], prog="fastrl groups build", hidden=("stage",))
    check_groups(config)
    folder = run_groups(config)
    console = Console()
    for title, header, rows in tables(read_counts(folder)):
        table = Table(*header, title=title, title_justify="left")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    console.print(f"{folder / 'page.html'}", soft_wrap=True)
    return 0
