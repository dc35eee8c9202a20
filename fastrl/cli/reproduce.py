"""fastrl reproduce: the command line's side of it. Check, run what is not finished, report."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import IO

from fastrl.config.flags import parse_flags
from fastrl.report.console import duration
from fastrl.runtime.run import write_atomic
from fastrl.tiny.reproduce.options import ReproduceOptions, claim_folder
from fastrl.tiny.reproduce.table import findings, print_table, read_numbers, write_table
from fastrl.tools.sweep.cells import Cell, failure
from fastrl.tools.sweep.schedule import locked, run_cells


def reproduce(arguments: list[str]) -> int:
    """0: all studies are finished. 1: some failed."""
    options = parse_flags(ReproduceOptions, None, arguments, prog="fastrl reproduce")
    root = Path(options.dir)
    claim_folder(root, options.sizes)
    parts = parts_of(options, root)
    with locked(root) as lock:
        run_left(parts, options, lock)
        numbers = read_numbers(root, options.studies, options.seeds)
        found = findings(options.claims, numbers, options.samples)
        written = write_table(found, numbers, options.sizes, root)
    print_table(found, numbers, options.sizes)
    for path in written:
        print(path)
    return 1 if any(failure(part) for part in parts) else 0


def parts_of(options: ReproduceOptions, root: Path) -> list[Cell]:
    """A process for each study and seed. Study by study: rltr and tracelift begin with the same worlds, which
    no two processes should make at the same time."""
    return [
        Cell(values={"study": study}, seed=seed, folder=root / study / f"seed-{seed}")
        for study in options.studies
        for seed in options.seeds
    ]


def run_left(parts: list[Cell], options: ReproduceOptions, lock: IO[str]) -> None:
    """Run what is not finished, a line a part."""
    left = [part for part in parts if not (part.folder / "numbers.json").exists()]
    before = done = len(parts) - len(left)
    print(f"{len(parts)} parts, {done} finished; {options.processes} at a time, logs beside them", flush=True)
    since = time.monotonic()

    def ended(part: Cell, code: int, took: str) -> None:
        nonlocal done
        done += 1
        write_atomic(part.ended, json.dumps({"code": code}) + "\n")
        said = f"failed after {took}, {failure(part)}" if code else took
        to_go = (time.monotonic() - since) / (done - before) * (len(parts) - done)
        print(f"{done}/{len(parts)}  {part.name}  {said}; about {duration(to_go)} to go", flush=True)

    run_cells(left, lambda part: command(part, options), (), lock, ended, lanes=options.processes)


def command(part: Cell, options: ReproduceOptions) -> list[str]:
    """What measures a part; typed by hand, it does the same."""
    study = str(part.values["study"])
    return [sys.executable, "-m", "fastrl.tiny.reproduce.studies", study, str(part.seed), options.dir]
