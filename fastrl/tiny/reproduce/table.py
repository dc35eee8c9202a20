"""The table of claims: out of what the studies left behind, as Markdown, as JSON and on a terminal."""

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
"""What is finished: {study: {seed: what it found}}."""


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
    """How to read the table, and what it was made with."""
    every = [found["seconds"] for own in numbers.values() for found in own.values()]
    cpu = sum(each["cpu"] for each in every)
    taught = "" if sizes.teach is None else f", models taught for {sizes.teach} steps (a trial, not a result)"
    return (
        "here: means over seeds of both numbers that the claim compares, in its order. effect: their "
        "difference (of steps, their ratio), paired by seed, with its 95 % t-interval over seeds. holds: "
        "the interval lies wholly on the claim's side; does not hold: wholly below the smallest effect that "
        "would count (0.02 in accuracy or success, 1.1 in steps; of wrong labels, wholly beyond the loss of "
        "0.05 that is allowed); undecided: neither. The rules stood before the numbers; the claims are "
        f"decided one by one, without a correction for their number. {sizes.steps} RL steps{taught}; "
        f"{duration(cpu)} of CPU time."
    )


def rows(found: Sequence[Finding]) -> list[tuple[str, ...]]:
    return [(each.claim.text, each.claim.paper, *shown(each), each.verdict) for each in found]


def shown(finding: Finding) -> tuple[str, str]:
    """0.99, 0.16 and +0.83 [+0.82, +0.84], n=3"""
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
    """Everything that the table says and more: both numbers and the effect of every seed."""
    return {
        "claims": [claim_as_json(finding, list(numbers[finding.claim.study])) for finding in found],
        "sizes": asdict(sizes),
        "seconds": {s: {seed: each["seconds"] for seed, each in own.items()} for s, own in numbers.items()},
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
    """table.md and table.json."""
    lines = [HEADER, ("---",) * len(HEADER), *rows(found)]
    text = "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
    markdown, whole = folder / "table.md", folder / "table.json"
    write_atomic(markdown, f"{text}\n{caption(numbers, sizes)}\n")
    write_json(whole, as_json(found, numbers, sizes))
    return [markdown, whole]


def print_claims(
    found: Sequence[Finding], numbers: Numbers, sizes: Sizes, file: IO[str] | None = None
) -> None:
    """On a terminal as wide as it is; in a file, lines of IN_A_FILE characters."""
    console = Console(file=file)
    if not console.is_terminal:
        console = Console(file=file, width=IN_A_FILE)
    drawn = Table(show_lines=True)
    for name in HEADER:
        drawn.add_column(name)
    for row in rows(found):
        drawn.add_row(*(Text(cell) for cell in row))  # [95 %] is no markup
    console.print(drawn)
    console.print(Text(caption(numbers, sizes)))
