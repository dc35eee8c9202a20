"""The table of claims, as Markdown, JSON and on a terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import IO, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fastrl.report.pace import duration
from fastrl.runtime.run import environment, write_atomic
from fastrl.tiny.reproduce.claims import Claim, Finding
from fastrl.tiny.reproduce.options import Sizes
from fastrl.training.progress import write_json

HEADER = ("claim", "the paper's figure", "here", "effect [95 %]", "verdict")
IN_A_FILE = 160
Numbers = dict[str, dict[int, dict[str, Any]]]
"""Results of finished studies: {study: {seed: results}}."""


def read_numbers(root: Path, studies: Sequence[str], seeds: Sequence[int]) -> Numbers:
    files = {(s, seed): root / s / f"seed-{seed}" / "numbers.json" for s in studies for seed in seeds}
    return {
        study: {
            seed: json.loads(files[study, seed].read_text()) for seed in seeds if files[study, seed].exists()
        }
        for study in studies
    }


def findings(claims: Sequence[Claim], numbers: Numbers, samples: int) -> list[Finding]:
    return [
        Finding(
            claim=claim,
            pairs=[claim.found(found, samples) for found in numbers[claim.study].values()],
        )
        for claim in claims
    ]


def caption(numbers: Numbers, sizes: Sizes) -> str:
    """Return the explanation below the table."""
    cpu = sum(part["seconds"]["cpu"] for own in numbers.values() for part in own.values())
    trial = "" if sizes.teach is None else f", models trained for {sizes.teach} steps (a trial, not a result)"
    return (
        "here: means over seeds of the two numbers that the claim compares, in its order. effect: their "
        "difference (for steps, their ratio), paired by seed, with its 95 % t-interval over seeds. holds: "
        "the whole interval supports the claim; does not hold: the whole interval is below the smallest "
        "effect that would count (0.02 in accuracy or success, 1.1 in steps; for wrong labels, beyond the "
        "allowed loss of 0.05); undecided: neither. The rules were fixed before the measurements; each claim "
        f"is decided separately, without correction for their number. {sizes.steps} RL steps{trial}; "
        f"{duration(cpu)} of CPU time."
    )


def rows(found: Sequence[Finding]) -> list[tuple[str, ...]]:
    return [(result.claim.text, result.claim.paper, *shown(result), result.verdict) for result in found]


def shown(finding: Finding) -> tuple[str, str]:
    """Format the means and the effect, such as `0.990, 0.160` and `+0.830 [+0.820, +0.840], n=3`."""
    interval = finding.interval
    if interval is None:
        return "-", "-"
    ratio = finding.claim.ratio
    form = ".2f" if ratio else "+.3f"
    ends = "" if interval.low is None else f" [{interval.low:{form}}, {interval.high:{form}}]"
    both = ", ".join(
        f"{mean(side):.1f}" if ratio else f"{mean(side):.3f}" for side in zip(*finding.pairs, strict=True)
    )
    return both, f"{interval.mean:{form}}{ends}, n={interval.n}"


def as_json(found: Sequence[Finding], numbers: Numbers, sizes: Sizes) -> dict[str, Any]:
    """Return the table as JSON, with both numbers and the effect of every seed."""
    return {
        "claims": [claim_as_json(finding, list(numbers[finding.claim.study])) for finding in found],
        "sizes": asdict(sizes),
        "seconds": {s: {seed: part["seconds"] for seed, part in own.items()} for s, own in numbers.items()},
        "environment": environment(),
    }


def claim_as_json(finding: Finding, seeds: list[int]) -> dict[str, Any]:
    claim, interval = finding.claim, finding.interval
    return {
        "name": claim.name, "study": claim.study, "claim": claim.text, "paper": claim.paper, "seeds": seeds,
        "first": [pair[0] for pair in finding.pairs], "second": [pair[1] for pair in finding.pairs],
        "effects": [claim.effect(pair) for pair in finding.pairs],
        "effect": interval and interval.mean, "low": interval and interval.low,
        "high": interval and interval.high, "verdict": finding.verdict,
        "rule": {"holds_above": claim.above, "does_not_hold_below": claim.below, "ratio": claim.ratio},
    }  # fmt: skip


def write_table(found: Sequence[Finding], numbers: Numbers, sizes: Sizes, folder: Path) -> list[Path]:
    """Write table.md and table.json; return their paths."""
    lines = [HEADER, ("---",) * len(HEADER), *rows(found)]
    text = "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
    markdown, whole = folder / "table.md", folder / "table.json"
    write_atomic(markdown, f"{text}\n{caption(numbers, sizes)}\n")
    write_json(whole, as_json(found, numbers, sizes))
    return [markdown, whole]


def print_claims(
    found: Sequence[Finding], numbers: Numbers, sizes: Sizes, file: IO[str] | None = None
) -> None:
    """Print the table with the terminal's width, or IN_A_FILE characters wide if it isn't a terminal."""
    console = Console(file=file)
    if not console.is_terminal:
        console = Console(file=file, width=IN_A_FILE)
    drawn = Table(show_lines=True)
    for name in HEADER:
        drawn.add_column(name)
    for row in rows(found):
        drawn.add_row(*(Text(cell) for cell in row))  # Text: [95 %] must not be parsed as markup
    console.print(drawn)
    console.print(Text(caption(numbers, sizes)))
