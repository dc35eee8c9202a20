"""Metrics of a reward model on held-out groups: errors, rankings, levels, calibration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedTrace:
    """A trace of a held-out group with predicted and gold values."""

    group: int
    positive: bool
    negative_kind: str | None
    score: float
    total: float
    """The gold score."""
    levels: tuple[int, ...]
    """The most likely level of each dimension."""
    gold_levels: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Bin:
    """Traces whose scores lie in [low, high); the last bin holds 1 as well."""

    low: float
    high: float
    count: int
    score: float
    """Mean score."""
    total: float
    """Mean gold total."""


def rubric_metrics(traces: Sequence[JudgedTrace], dimensions: Sequence[str]) -> dict[str, float]:
    """Compute the metrics of a reward model.

        mae = mean |score - total|,   rmse = sqrt(mean (score - total)^2)             over traces
        pair_accuracy  = fraction of a group's (positive, negative) pairs with score_positive > score_negative
        group_accuracy = fraction of groups whose every positive scores above every negative
        level_accuracy/<dimension> = fraction of traces whose most likely level is the gold one
        ece = sum over bins of count / traces * |mean score - mean total|              (`calibration`)

    The first four also per negative_kind, as <metric>/<kind>: errors over negatives of this kind, pairs and
    groups without other negatives. Equal scores count as ranked wrongly.

    Raises:
        ValueError: no traces, or a group without a positive or a negative.
    """
    if not traces:
        raise ValueError("[rubric_metrics] traces: expected at least one, got none")
    metrics = {**error_metrics(traces), **ranking_metrics(traces)}
    for place, name in enumerate(dimensions):
        right = sum(trace.levels[place] == trace.gold_levels[place] for trace in traces)
        metrics[f"level_accuracy/{name}"] = right / len(traces)
    metrics["ece"] = calibration_error(calibration(traces))
    positives = [trace for trace in traces if trace.positive]
    for kind in sorted({trace.negative_kind for trace in traces if trace.negative_kind is not None}):
        flawed = [trace for trace in traces if not trace.positive and trace.negative_kind == kind]
        groups = {trace.group for trace in flawed}
        compared = [trace for trace in positives if trace.group in groups] + flawed
        values = {**error_metrics(flawed), **ranking_metrics(compared)}
        metrics |= {f"{name}/{kind}": value for name, value in values.items()}
    return metrics


def error_metrics(traces: Sequence[JudgedTrace]) -> dict[str, float]:
    errors = [trace.score - trace.total for trace in traces]
    return {
        "mae": math.fsum(map(abs, errors)) / len(errors),
        "rmse": math.sqrt(math.fsum(error * error for error in errors) / len(errors)),
    }


def ranking_metrics(traces: Sequence[JudgedTrace]) -> dict[str, float]:
    scores: dict[int, tuple[list[float], list[float]]] = {}
    for trace in traces:
        scores.setdefault(trace.group, ([], []))[not trace.positive].append(trace.score)
    for group, (above, below) in scores.items():
        if not above or not below:
            raise ValueError(
                f"[rubric_metrics] traces: expected a positive and a negative in every group, got "
                f"{len(above)} and {len(below)} in group {group}"
            )
    pairs = [a > b for above, below in scores.values() for a in above for b in below]
    groups = [min(above) > max(below) for above, below in scores.values()]
    return {"pair_accuracy": sum(pairs) / len(pairs), "group_accuracy": sum(groups) / len(groups)}


def calibration(traces: Sequence[JudgedTrace], num_bins: int = 10) -> list[Bin]:
    """Bin traces by score in bins of equal width over [0, 1]; empty bins are left out."""
    members: dict[int, list[JudgedTrace]] = {}
    for trace in traces:
        members.setdefault(min(num_bins - 1, int(trace.score * num_bins)), []).append(trace)
    return [
        Bin(
            low=index / num_bins,
            high=(index + 1) / num_bins,
            count=len(inside),
            score=math.fsum(trace.score for trace in inside) / len(inside),
            total=math.fsum(trace.total for trace in inside) / len(inside),
        )
        for index, inside in sorted(members.items())
    ]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Return the sum over bins of count / traces * |mean score - mean total|."""
    weighted = math.fsum(bin.count * abs(bin.score - bin.total) for bin in bins)
    return weighted / sum(bin.count for bin in bins)
