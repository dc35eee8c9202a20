"""References: bands of several seeds' runs in one readable JSONL file.

The first line has the recipe, flags, seeds, each stage's options and their digest, versions, and fingerprints
of the initial weights and files. Every other line is a block of steps of a stage:

    {"stage": "rl", "first": 6, "last": 10, "metrics": {"reward": [median, low, high], ...}, "seeds": {...}}
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastrl.config.load import RECIPES
from fastrl.runtime.run import write_atomic
from fastrl.tools.compare.bands import FEWEST_SEEDS, LEVEL, Band, Bands, make_bands, seed_values
from fastrl.tools.compare.runs import LEFT_OUT, Record, differing, digest, fingerprints

FOLDER = RECIPES / "references"
DIGITS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Bands of several seeds of one recipe."""

    name: str
    seeds: tuple[int, ...]
    options: dict[str, dict[str, Any]]
    """Options by stage; see runs.options."""
    bands: Bands
    flags: tuple[str, ...] = ()
    """Flags of the recipe's runs, for example for fewer steps."""
    level: float = LEVEL
    environment: dict[str, Any] = field(default_factory=dict)
    began_with: dict[str, str] = field(default_factory=dict)
    """Fingerprints of initial weights and files."""


def make_reference(
    runs: Sequence[Record], name: str, *, flags: Sequence[str] = (), level: float = LEVEL
) -> Reference:
    """Build the bands of runs that differ only in their seeds.

    Raises:
        ValueError: fewer than three runs, the same seed twice, or options that differ.
    """
    seeds = [run.seed for run in runs]
    if len(runs) < FEWEST_SEEDS:
        raise ValueError(
            f"[compare] reference: expected one run, or at least {FEWEST_SEEDS} for a band, got {len(runs)}"
        )
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"[compare] reference: expected runs of different seeds, got {seeds}")
    first = runs[0]
    common = [stage for stage in first.stages if all(stage in run.stages for run in runs)]
    for run in runs[1:]:
        if changed := differing(first, run.options):
            raise ValueError(
                f"[compare] reference: expected runs of one configuration, got {'; '.join(changed)}, in "
                f"{first.name} and {run.name}"
            )
    values = {stage: seed_values([run.stages[stage].lines for run in runs]) for stage in common}
    values = {stage: by_block for stage, by_block in values.items() if by_block}
    if not values:
        raise ValueError("[compare] reference: expected a metric that all runs have logged, got none")
    return Reference(
        name=name,
        seeds=tuple(seeds),
        options=first.options,
        bands=make_bands(values, level),
        flags=tuple(flags),
        level=level,
        environment=first.stages[common[0]].environment,
        began_with=fingerprints(first.configs.values()),
    )


def write_reference(reference: Reference, path: Path) -> Path:
    header = {
        "reference": reference.name,
        "flags": list(reference.flags),
        "seeds": list(reference.seeds),
        "level": reference.level,
        "digest": digest(reference.options),
        "options": reference.options,
        "options_left_out": list(LEFT_OUT),
        "environment": reference.environment,
        "began_with": reference.began_with,
    }
    rows = [
        {
            "stage": stage,
            "first": first,
            "last": last,
            "metrics": {name: rounded(band.median, band.low, band.high) for name, band in metrics.items()},
            "seeds": {name: rounded(*band.seeds) for name, band in metrics.items()},
        }
        for stage, by_block in reference.bands.items()
        for (first, last), metrics in by_block.items()
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in [header, *rows]))
    return path


def rounded(*values: float) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values]


def read_reference(path: Path) -> Reference:
    """Read a reference file; raise ValueError if it is none."""
    try:
        header, *rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        bands: Bands = {}
        for row in rows:
            bands.setdefault(row["stage"], {})[row["first"], row["last"]] = bands_of(row)
        return Reference(
            name=header["reference"],
            seeds=tuple(header["seeds"]),
            options=header["options"],
            bands=bands,
            flags=tuple(header["flags"]),
            level=header["level"],
            environment=header["environment"],
            began_with=header["began_with"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"[compare] reference: expected a file written by fastrl compare --write, got {str(path)!r}"
        ) from error


def bands_of(row: Mapping[str, Any]) -> dict[str, Band]:
    return {
        name: Band(median=median, low=low, high=high, seeds=tuple(row["seeds"][name]))
        for name, (median, low, high) in row["metrics"].items()
    }


def reference_names() -> list[str]:
    """Return the recipes with a packaged reference."""
    return sorted(path.stem for path in FOLDER.glob("*.jsonl"))


def find_reference(name: str) -> Path | None:
    """Return the reference file of a name or path; None if there is none."""
    path = Path(name)
    if path.is_file():
        return path
    packaged = FOLDER / f"{name}.jsonl"
    return packaged if name in reference_names() else None
