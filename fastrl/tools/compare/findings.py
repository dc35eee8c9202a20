"""Compares a run with a reference: metrics inside and outside their bands, where and by how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fastrl.tools.compare.bands import Band, Block, Values, all_steps, block_values, make_bands
from fastrl.tools.compare.reference import Reference
from fastrl.tools.compare.runs import Record, differing, fingerprints

Verdict = Literal["inside", "outside", "missing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A metric of a stage, over all blocks that run and reference have."""

    stage: str
    metric: str
    verdict: Verdict
    """missing: the run logs the metric in no block, or only null in some block."""
    compared: int
    """Number of blocks compared."""
    outside: int
    """Number of these outside their bands."""
    block: Block
    """First block outside its band; if there is none, the block nearest to the band's edge."""
    value: float | None
    band: Band
    beyond: float
    """Distance from the band's middle in half widths; > 1 is outside. 0 if missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The comparison of a run with a reference."""

    run: str
    reference: str
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    """Messages about stages not compared and other differences."""

    @property
    def drifted(self) -> bool:
        return any(finding.verdict != "inside" for finding in self.findings)


def compare_run(run: Record, reference: Reference, *, other_config: bool = False) -> Comparison:
    """Compare every metric of the reference in every block that the run has finished.

    Args:
        other_config: allow differing options, and list them in the notes.
    Raises:
        ValueError: options differ, or run and reference have no stage or block in common.
    """
    notes = differences(run, reference, other_config)
    findings: list[Finding] = []
    for stage, by_block in reference.bands.items():
        if stage not in run.stages:
            notes.append(f"{stage}: not compared, the run has logged no step of it")
            continue
        lines = run.stages[stage].lines
        found = stage_findings(stage, {block: block_values(lines, block) for block in by_block}, by_block)
        findings += found
        reached, last = run.stages[stage].last, max(last for _, last in by_block)
        if reached < last:
            notes.append(f"{stage}: compared until step {reached} of {last}, where the run ends")
    if not findings:
        raise ValueError(
            f"[compare] run: expected a block of steps in common with {reference.name}, whose first ends at "
            f"step {min(last for blocks in reference.bands.values() for _, last in blocks)}, got none"
        )
    return Comparison(run=run.name, reference=reference.name, findings=tuple(findings), notes=tuple(notes))


def stage_findings(
    stage: str, values: Mapping[Block, Values], by_block: Mapping[Block, Mapping[str, Band]]
) -> list[Finding]:
    """Return one finding per metric.

    Blocks that the run has not finished are skipped. Blocks without the metric are skipped unless no block
    has it.
    """
    whole = all_steps(by_block)
    reached = [block for block in by_block if values[block]]
    found = []
    for name in dict.fromkeys(name for block in reached for name in by_block[block]):
        places = [block for block in reached if name in by_block[block]]
        there = [block for block in places if name in values[block]]
        if len(there) < len(places):
            there = [block for block in there if block != whole]  # its mean covers fewer steps than the band
        found.append(metric_finding(stage, name, there or places, values, by_block))
    return found


def metric_finding(
    stage: str,
    name: str,
    places: Sequence[Block],
    values: Mapping[Block, Values],
    by_block: Mapping[Block, Mapping[str, Band]],
) -> Finding:
    beyond = {block: distance(values[block].get(name), by_block[block][name]) for block in places}
    out = [block for block in places if (far := beyond[block]) is None or far > 1]
    block = out[0] if out else max(places, key=lambda block: beyond[block] or 0.0)
    missing = beyond[block] is None
    return Finding(
        stage=stage,
        metric=name,
        verdict="missing" if missing else "outside" if out else "inside",
        compared=len(places),
        outside=len(out),
        block=block,
        value=values[block].get(name),
        band=by_block[block][name],
        beyond=beyond[block] or 0.0,
    )


def distance(value: float | None, band: Band) -> float | None:
    """Return the distance from the band's middle in half widths; None for a missing value."""
    if value is None:
        return None
    middle, half = (band.low + band.high) / 2, (band.high - band.low) / 2
    return abs(value - middle) / half if half else float(value != middle) * 2


def differences(run: Record, reference: Reference, other_config: bool) -> list[str]:
    """Return messages about other differences; raise ValueError if options differ without other_config."""
    common = [stage for stage in reference.bands if stage in run.stages]
    if not common:
        raise ValueError(
            f"[compare] run: expected a stage of {reference.name}, which has {', '.join(reference.bands)}, "
            f"got {', '.join(run.stages)}"
        )
    options = differing(run, reference.options)
    if options and not other_config:
        raise ValueError(
            f"[compare] run: expected the configuration of {reference.name}{with_flags(reference)}, got "
            f"{'; '.join(options)}; --other_config true compares them anyway"
        )
    notes = [f"other configuration: {option}" for option in options]
    here = fingerprints(run.configs.values())
    other = [name for name, mark in here.items() if reference.began_with.get(name, mark) != mark]
    if other:
        notes.append(
            f"other initial weights or data than the reference: {', '.join(other)}; the bands account for "
            "seeds only"
        )
    return notes + versions(run.stages[common[0]].environment, reference.environment)


def with_flags(reference: Reference) -> str:
    return f" with {' '.join(reference.flags)}" if reference.flags else ""


def versions(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    mine, other = ours.get("packages", {}), theirs.get("packages", {})
    changed = [
        f"{name} {mine.get(name)}, not {other.get(name)}"
        for name in sorted({*mine, *other})
        if mine.get(name) != other.get(name)
    ]
    return [f"other versions: {'; '.join(changed)}"] if changed else []


def false_alarms(reference: Reference) -> list[tuple[int, list[Finding]]]:
    """Compare each seed's run with the bands of the other seeds (leave one out).

    Returns: (seed, findings that are not inside) per seed.
    """
    found = []
    for place, seed in enumerate(reference.seeds):
        others = make_bands(
            {
                stage: {
                    block: {
                        name: band.seeds[:place] + band.seeds[place + 1 :] for name, band in metrics.items()
                    }
                    for block, metrics in by_block.items()
                }
                for stage, by_block in reference.bands.items()
            },
            reference.level,
        )
        failed = []
        for stage, by_block in reference.bands.items():
            own: dict[Block, Values] = {
                block: {name: band.seeds[place] for name, band in metrics.items()}
                for block, metrics in by_block.items()
            }
            failed += [
                finding
                for finding in stage_findings(stage, own, others[stage])
                if finding.verdict != "inside"
            ]
        found.append((seed, failed))
    return found
