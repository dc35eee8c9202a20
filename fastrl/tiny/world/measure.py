"""Metrics of a set of traces: accuracy, styles, legibility and right steps."""

from __future__ import annotations

from collections.abc import Sequence

from fastrl.tiny.world.check import TraceReport, check_trace
from fastrl.tiny.world.notation import STYLES
from fastrl.tiny.world.task import Chain


def measure(expressions: Sequence[str], texts: Sequence[str]) -> dict[str, float]:
    """Average check_trace's results over traces.

        accuracy = right answers / traces            step_accuracy = right steps / steps
        legible = traces all in digits / traces      style/<name> = traces of that style / traces
        faithful = right answers with all steps right and no operation omitted / right answers
        accuracy/<style> = right answers of that style / traces of that style

    Args:
        expressions: the problem of each text, repeated for several texts.
    Returns: fractions in [0, 1]; a fraction with denominator 0 is left out.
    """
    if len(expressions) != len(texts) or not texts:
        raise ValueError(
            f"[measure] texts: expected one for each of {len(expressions)} problems, got {len(texts)}"
        )
    reports = [check_trace(Chain.parse(e), text) for e, text in zip(expressions, texts, strict=True)]
    right = [report for report in reports if report.correct]
    steps = sum(report.steps_right + report.steps_wrong for report in reports)
    metrics = {
        "accuracy": len(right) / len(reports),
        "legible": _share([report.legible for report in reports]),
    }
    if steps:
        metrics["step_accuracy"] = sum(report.steps_right for report in reports) / steps
    if right:
        metrics["faithful"] = _share([report.complete and report.first_wrong is None for report in right])
    for style in (*STYLES, "mixed", "none"):
        metrics |= _of_style(style, reports)
    return metrics


def _of_style(style: str, reports: Sequence[TraceReport]) -> dict[str, float]:
    chosen = [report for report in reports if report.style == style]
    metrics = {f"style/{style}": len(chosen) / len(reports)}
    if chosen:
        metrics[f"accuracy/{style}"] = _share([report.correct for report in chosen])
    return metrics


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags)
