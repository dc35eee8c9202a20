"""fastrl compare RUN REFERENCE: compare a run's metrics with a reference or other runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastrl.cli.arguments import asks_help, take_positionals
from fastrl.config.flags import parse_flags
from fastrl.tools.compare.findings import compare_run
from fastrl.tools.compare.pair import Difference, Same, other_options, same_bits, seed_differences
from fastrl.tools.compare.picture import draw_reference
from fastrl.tools.compare.reference import (
    Reference,
    find_reference,
    make_reference,
    read_reference,
    reference_names,
    write_reference,
)
from fastrl.tools.compare.runs import Record, read_record
from fastrl.tools.compare.show import as_json, print_comparison, print_differences, print_same


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareOptions:
    """Compare a run with a reference: the name of a recipe that has one, a reference file, another run
    folder, or at least three run folders.

    Exit code 0: no drift; 1: drift; 2: they can't be compared. A single other run with the same seed must be
    equal bit for bit; with another seed, the differences are only shown.
    """

    other_config: bool = False
    """Compare even if the configurations differ; otherwise that is an error which names the options."""
    json: bool = False
    """Print JSON instead of a table."""
    png: str | None = None
    """Plot the run over the reference's bands into this file."""
    write: str | None = None
    """Write the bands of the runs after RUN to this reference file."""


def main(arguments: list[str]) -> int:
    """Print the comparison; return 0 without drift, 1 with drift."""
    help_asked = asks_help(arguments)
    places = take_positionals(arguments)
    options = parse_flags(CompareOptions, None, arguments, prog="fastrl compare RUN REFERENCE [RUN ...]")
    if help_asked or len(places) < 2:
        got = " ".join(places) or "nothing"
        raise ValueError(f"[compare] RUN REFERENCE: expected both before any flag, got {got}")
    run = read_record(places[0])
    found = reference_of(places[1:])
    if isinstance(found, Record):
        return compare_two(run, found, options)
    if options.write is not None:
        print(write_reference(found, Path(options.write)), file=sys.stderr)
    judged = compare_run(run, found, other_config=options.other_config)
    if options.json:
        print(json.dumps(as_json(judged, run.name, found.name)))
    else:
        print_comparison(judged)
    if options.png is not None:
        print(draw_reference(found, Path(options.png), run, judged.findings), file=sys.stderr)
    return 1 if judged.drifted else 0


def reference_of(places: Sequence[str]) -> Reference | Record:
    """Read a reference from a recipe's name, a file or several run folders; or the record of a single run.

    Raises:
        FileNotFoundError: a single place that is none of these.
    """
    if len(places) > 1:
        return make_reference([read_record(place) for place in places], f"{len(places)} runs")
    file = find_reference(places[0])
    if file is not None:
        return read_reference(file)
    if Path(places[0]).is_dir():
        return read_record(places[0])
    raise FileNotFoundError(
        "[compare] reference: expected a run folder, a reference file or one of "
        f"{', '.join(reference_names())}, got {places[0]!r}"
    )


def compare_two(run: Record, other: Record, options: CompareOptions) -> int:
    """Compare two runs without a band: bit for bit if their seeds are equal."""
    for name in ("png", "write"):
        if getattr(options, name) is not None:
            raise ValueError(f"[compare] {name}: expected a reference with bands, got one run")
    changed = other_options(run, other)
    if changed and not options.other_config:
        raise ValueError(
            f"[compare] run: expected the configuration of {other.name}, got {'; '.join(changed)}; "
            "--other_config true compares them anyway"
        )
    found: Same | list[Difference]
    found = same_bits(run, other) if run.seed == other.seed else seed_differences(run, other)
    if options.json:
        print(json.dumps(as_json(found, run.name, other.name)))
    elif isinstance(found, Same):
        print_same(run.name, other.name, found)
    else:
        print_differences(run.name, other.name, found)
    return 1 if isinstance(found, Same) and found.parting is not None else 0
