"""Compares two runs: bit for bit if their seeds are equal, otherwise by differences of means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastrl.report.intervals import Interval, t_interval
from fastrl.tools.compare.bands import block_values, is_compared, parts
from fastrl.tools.compare.runs import Record, differing

MEASURED = "time/"
"""Prefix of metrics that differ even between equal runs."""
LEVEL = 0.99
FEWEST_BLOCKS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstDifference:
    """The first difference of two runs: the earliest step, and there the first metric in logged order."""

    stage: str
    step: int
    metric: str
    ours: Any
    theirs: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Same:
    """The comparison of two runs with the same seed and configuration, over their common steps."""

    steps: int
    values: int
    """Number of values compared."""
    parting: FirstDifference | None
    """The first difference. None: all values are equal, bit for bit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The difference of a metric between two runs with other seeds."""

    stage: str
    metric: str
    ours: float
    """Mean over the common blocks."""
    theirs: float
    difference: Interval
    """Interval of the mean of (ours - theirs) over blocks, corrected for the number of metrics. It assumes
    independent blocks, which is only approximately true within a run."""

    @property
    def clear(self) -> bool:
        """Return True if the interval excludes 0; False if there are too few blocks for an interval."""
        low, high = self.difference.low, self.difference.high
        return low is not None and high is not None and not low <= 0 <= high


def other_options(ours: Record, theirs: Record) -> list[str]:
    """Return messages about differing options; raise ValueError if the runs have no stage in common."""
    if not set(ours.stages) & set(theirs.stages):
        raise ValueError(
            f"[compare] run: expected a stage of {theirs.name}, which has {', '.join(theirs.stages)}, got "
            f"{', '.join(ours.stages)}"
        )
    return differing(ours, theirs.options)


def same_bits(ours: Record, theirs: Record) -> Same:
    """Compare all metrics except times at all common steps; a key or value missing in one run differs too."""
    steps = values = 0
    for stage in [name for name in ours.stages if name in theirs.stages]:
        pairs = in_common(ours.stages[stage].lines, theirs.stages[stage].lines)
        for mine, other in pairs:
            steps += 1
            for name in dict.fromkeys([*mine, *other]):
                if name.startswith(MEASURED):
                    continue
                values += 1
                if (name in mine) != (name in other) or mine.get(name) != other.get(name):
                    parting = FirstDifference(
                        stage=stage,
                        step=mine["step"],
                        metric=name,
                        ours=mine.get(name, "nothing"),
                        theirs=other.get(name, "nothing"),
                    )
                    return Same(steps=steps, values=values, parting=parting)
    return Same(steps=steps, values=values, parting=None)


def in_common(
    ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]
) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Return pairs of lines of the steps that both have."""
    by_step = {line["step"]: line for line in theirs}
    return [(line, by_step[line["step"]]) for line in ours if line["step"] in by_step]


def seed_differences(ours: Record, theirs: Record, level: float = LEVEL) -> list[Difference]:
    """Compute ours - theirs for every compared metric, over the common blocks of steps.

        d_k = ours in block k - theirs in block k;   interval = mean of d +- t * s_d / sqrt(K)

    The level is 1 - (1 - level) / number of metrics. With fewer than three blocks there is no interval.
    """
    found: list[tuple[str, str, list[float], list[float]]] = []
    for stage in [name for name in ours.stages if name in theirs.stages]:
        sides = ours.stages[stage], theirs.stages[stage]
        last = min(side.last for side in sides)
        our_blocks, their_blocks = (
            [block_values(side.lines, block) for block in parts(last)] for side in sides
        )
        names = dict.fromkeys(name for values in our_blocks for name in values if is_compared(name))
        for name in names:
            both = [
                (a, b)
                for mine, other in zip(our_blocks, their_blocks, strict=True)
                if (a := mine.get(name)) is not None and (b := other.get(name)) is not None
            ]
            if both:
                found.append((stage, name, [a for a, _ in both], [b for _, b in both]))
    return [difference(*entry, level=1 - (1 - level) / len(found)) for entry in found]


def difference(stage: str, name: str, ours: list[float], theirs: list[float], *, level: float) -> Difference:
    between = [a - b for a, b in zip(ours, theirs, strict=True)]
    interval = t_interval(between, level)
    if len(between) < FEWEST_BLOCKS:
        interval = Interval(mean=interval.mean, low=None, high=None, n=interval.n)
    count = len(between)
    return Difference(
        stage=stage, metric=name, ours=sum(ours) / count, theirs=sum(theirs) / count, difference=interval
    )
