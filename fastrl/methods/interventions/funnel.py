"""Counts of candidates after each filter, and success rates with and without interventions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from fastrl.config.intervene import Filter
from fastrl.methods.interventions.candidates import REJECTS, Candidate
from fastrl.rewards.batch import mean

TESTED: dict[Filter, tuple[str, ...]] = {
    "none": (),
    "success": ("continued", "successful"),
    "gain": ("continued", "successful", "gained"),
}
"""Counts that exist only if the filter measured them."""
ARMS = {
    "prefix": "success_prefix",
    "prefix + original step": "success_original",
    "prefix + intervention": "success",
}


def funnel(
    num_problems: int,
    num_attempts: int,
    too_long: int,
    cut: int,
    candidates: Sequence[Candidate],
    kept_by: Filter = "gain",
) -> dict[str, Any]:
    """Count attempts, proposals and what each filter leaves, in order; then proposals by outcome. Counts that
    the filter did not measure are absent.

    Args:
        num_problems: problems with at least one attempt.
        too_long: attempts whose conversation did not fit.
        cut: attempts that were checked against a truncated guided solution.
        kept_by: the filter.
    """
    outcomes = Counter[str](candidate.outcome for candidate in candidates)
    parsed = len(candidates) - sum(outcomes[name] for name in REJECTS)
    no_leak = parsed - outcomes["leak"]
    distinct = no_leak - outcomes["duplicate"]
    measured = [candidate for candidate in candidates if candidate.success is not None]
    tested = {
        "continued": len(measured),
        "successful": sum(bool(candidate.success) for candidate in measured),
        "gained": sum((candidate.gain or 0) > 0 for candidate in measured),
    }
    selected = [candidate for candidate in candidates if candidate.outcome == "selected"]
    return {
        "problems": num_problems,
        "attempts": num_attempts,
        "attempts_too_long": too_long,
        "attempts_beside_a_cut_solution": cut,
        "proposals": len(candidates),
        "parsed": parsed,
        "no_leak": no_leak,
        "distinct": distinct,
        **{name: tested[name] for name in TESTED[kept_by]},
        "selected": len(selected),
        "problems_selected": len({candidate.problem for candidate in selected}),
        "outcomes": dict(sorted(outcomes.items())),
        "efficacy": efficacy(candidates),
    }


def efficacy(candidates: Sequence[Candidate]) -> dict[str, dict[str, float]]:
    """Return each arm's mean success and the number of problems with at least one success.

    Only candidates with all three arms measured count; empty if there are none.
    """
    measured = [
        candidate
        for candidate in candidates
        if candidate.gain is not None and candidate.success_prefix is not None
    ]
    if not measured:
        return {}
    out = {}
    for name, arm in ARMS.items():
        rates = [(candidate.problem, getattr(candidate, arm)) for candidate in measured]
        out[name] = {
            "mean_success": mean([rate for _, rate in rates]),
            "problems_covered": float(len({problem for problem, rate in rates if rate > 0})),
            "problems": float(len({problem for problem, _ in rates})),
            "candidates": float(len(rates)),
        }
    return out
