"""Bands in which another run's metrics should lie, from the runs of several seeds.

Steps are cut into blocks. A metric's value in a block is its mean there (for evaluations, the last value);
the mean over all steps after the start is one more value. For n seeds:

    band = mean +- max(t_(1 - a / 2, f) * s * sqrt(1 + 1 / n), floor)

    block k of K   s^2 = (s_k^2 + 2 * mean of s_j^2 over the metric's blocks j) / 3,   f = min(3, K) (n - 1)
    all steps      s^2 = the variance of that number over seeds,                       f = n - 1
    a              (1 - level) / 2 / number of such bands in the whole run; blocks and all steps separately
    floor          0.02 * largest |mean| of the metric in any block; for fractions and rewards at least 0.05

This is Student's prediction interval for one new value, with the level corrected for the number of bands
(Bonferroni). A few seeds estimate a variance poorly, so two thirds of a block's variance come from the
metric's other blocks. The floor gives a band to metrics that no seed changes.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastrl.report.intervals import t_quantile
from fastrl.report.plot import SPARSE, is_smaller_k

LEVEL = 0.99
FEWEST_SEEDS = 3
SHORTEST_BLOCK, MOST_BLOCKS = 5, 12
FLOOR, SHARES_FLOOR = 0.02, 0.05
NAMES = (
    "reward", "frac_reward_zero_std", "entropy", "kl", "loss", "grad_norm", "learning_rate",
    "completions/mean_length", "completions/clipped_ratio", "pair_accuracy", "eval/mae", "eval/pair_accuracy",
)  # fmt: skip
STARTS = ("eval/avg@", "eval/maj@", "eval/transfer_auc", "eval/two_stage_avg@")
SHARES = ("reward", "frac_", "completions/clipped", "pair_", "eval/")
Block = tuple[int, int]
"""First and last step."""
Values = dict[str, float | None]
"""A run's metrics in a block; None: only null was logged."""
SeedValues = dict[Block, dict[str, tuple[float, ...]]]
"""One value per seed, by block and metric."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """The range of a metric in a block."""

    median: float
    low: float
    high: float
    seeds: tuple[float, ...]
    """The seeds' values."""


Bands = dict[str, dict[Block, dict[str, Band]]]
"""Bands by stage, block and metric."""


def is_compared(name: str) -> bool:
    """Return True if a metric is compared: rewards, evaluations and NAMES."""
    reward = name.startswith("rewards/") and name.endswith("/mean")
    return reward or name in NAMES or (name.startswith(STARTS) and name.count("/") == 1)


def parts(last: int) -> list[Block]:
    """Return step 0, then at most twelve blocks of at least five steps; the last one may be shorter."""
    width = max(SHORTEST_BLOCK, math.ceil(last / MOST_BLOCKS))
    return [(0, 0), *((first, min(first + width - 1, last)) for first in range(1, last + 1, width))]


def blocks(last: int) -> list[Block]:
    """Return `parts`, and the block of all steps after the start if there are several."""
    return [*parts(last), *([(1, last)] if last > SHORTEST_BLOCK else [])]


def block_values(lines: Sequence[Mapping[str, Any]], block: Block) -> Values:
    """Return a run's values in a block; empty if the run has not reached the block's end."""
    first, last = block
    if not lines or lines[-1]["step"] < last:
        return {}
    given: dict[str, list[float]] = {}
    for line in lines:
        if first <= line["step"] <= last:
            for name, value in line.items():
                if is_compared(name):
                    given.setdefault(name, []).extend([] if value is None else [value])
    used = {name: values[-1:] if name.startswith(SPARSE) else values for name, values in given.items()}
    return {name: math.fsum(values) / len(values) if values else None for name, values in used.items()}


def make_bands(values: Mapping[str, SeedValues], level: float = LEVEL) -> Bands:
    """Compute the bands.

    Args:
        values: values by stage; the same number of seeds everywhere, at least two.
    """
    whole = sum(len(by_block.get(all_steps(by_block), {})) for by_block in values.values())
    every = sum(len(metrics) for by_block in values.values() for metrics in by_block.values())
    share = (1 - level) / 2
    apart = 1 - share / max(1, every - whole) / 2, 1 - share / max(1, whole) / 2
    return {stage: stage_bands(by_block, *apart) for stage, by_block in values.items()}


def all_steps(by_block: Iterable[Block]) -> Block:
    """Return the block of all steps after the start; an empty block if there is only one."""
    last = max(last for _, last in by_block)
    return (1, last) if last > SHORTEST_BLOCK else (1, 0)


def seed_values(runs: Sequence[Sequence[Mapping[str, Any]]]) -> SeedValues:
    """Return the values of metrics that all seeds have in a block, up to the shortest run's end.

    Args:
        runs: each run's lines of metrics.jsonl.
    """
    last = min((int(lines[-1]["step"]) for lines in runs if lines), default=0)
    found: SeedValues = {}
    for block in blocks(last):
        by_run = [block_values(lines, block) for lines in runs]
        known: dict[str, tuple[float, ...]] = {}
        for name in by_run[0]:
            there = [value for values in by_run if (value := values.get(name)) is not None]
            if len(there) == len(by_run) and not is_smaller_k(name, set(by_run[0])):
                known[name] = tuple(there)
        if block == (1, last) and last > SHORTEST_BLOCK:
            known = {name: values for name, values in known.items() if not name.startswith(SPARSE)}
        if known:
            found[block] = known
    return found


def stage_bands(by_block: SeedValues, in_block: float, in_all: float) -> dict[Block, dict[str, Band]]:
    """Compute the bands of a stage.

    Args:
        in_block: probability of Student's quantile for blocks.
        in_all: the same for all steps.
    """
    whole = all_steps(by_block)
    variances: dict[str, list[float]] = {}
    largest: dict[str, float] = {}
    for block, metrics in by_block.items():
        for name, values in metrics.items():
            largest[name] = max(largest.get(name, 0.0), abs(statistics.fmean(values)))
            if block != whole:
                variances.setdefault(name, []).append(statistics.variance(values))

    def band(block: Block, name: str, values: tuple[float, ...]) -> Band:
        mean, variance, n = statistics.fmean(values), statistics.variance(values), len(values)
        quantile = t_quantile(in_all, n - 1)
        if block != whole:
            others = variances[name]
            variance = (variance + 2 * statistics.fmean(others)) / 3
            quantile = t_quantile(in_block, min(3, len(others)) * (n - 1))
        floor = max(FLOOR * largest[name], SHARES_FLOOR if name.startswith(SHARES) else 0.0)
        half = max(quantile * math.sqrt(variance * (1 + 1 / n)), floor)
        return Band(median=statistics.median(values), low=mean - half, high=mean + half, seeds=values)

    return {
        block: {name: band(block, name, values) for name, values in metrics.items()}
        for block, metrics in by_block.items()
    }
