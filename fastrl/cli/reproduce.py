"""fastrl reproduce: run the missing studies of four papers' claims in the tiny worlds, print one table."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from fastrl.config.flags import parse_flags
from fastrl.runtime.run import write_atomic
from fastrl.tiny.reproduce.options import ReproduceOptions, claim_folder
from fastrl.tiny.reproduce.table import findings, print_claims, read_numbers, write_table
from fastrl.tools.sweep.cells import Cell, failure
from fastrl.tools.sweep.schedule import locked, run_missing


def main(arguments: list[str]) -> int:
    """Run missing studies, print and write the table; return 0 if all have finished, 1 if some failed."""
    options = parse_flags(ReproduceOptions, None, arguments, prog="fastrl reproduce")
    root = Path(options.dir)
    claim_folder(root, options.sizes)
    parts = study_runs(options, root)
    with locked(root) as lock:
        run_missing(
            parts,
            lambda part: study_command(part, options),
            lock,
            is_finished=lambda part: (part.folder / "numbers.json").exists(),
            write_end=lambda part, code: write_atomic(part.ended, json.dumps({"code": code}) + "\n"),
            lanes=options.processes,
        )
        numbers = read_numbers(root, options.studies, options.seeds)
        found = findings(options.claims, numbers, options.samples)
        written = write_table(found, numbers, options.sizes, root)
    print_claims(found, numbers, options.sizes)
    for path in written:
        print(path)
    return 1 if any(failure(part) for part in parts) else 0


def study_runs(options: ReproduceOptions, root: Path) -> list[Cell]:
    """Return a run for each study and seed.

    Ordered by study: rltr and tracelift need the same world, which two processes should not make at once.
    """
    return [
        Cell(values={"study": study}, seed=seed, folder=root / study / f"seed-{seed}")
        for study in options.studies
        for seed in options.seeds
    ]


def study_command(part: Cell, options: ReproduceOptions) -> list[str]:
    """Return the command line that runs one study with one seed."""
    study = str(part.values["study"])
    return [sys.executable, "-m", "fastrl.tiny.reproduce.studies", study, str(part.seed), options.dir]
