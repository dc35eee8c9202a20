"""Formulas of the uplift reward, from TraceLift (arXiv 2605.03862) and its ablations."""

from __future__ import annotations

from fastrl.config.uplift import Form

WEIGHT = 0.5
"""Math: weight of the primary run, and of the reasoning term."""
PASS_RATE, REASONING = 0.8, 0.2
"""Code: weights of the pass rate and of the reasoning term."""
RAN, BROKE = 0.2, 0.05
"""Code: bonus of a program that ran to the end, and of one that raised or timed out."""


def math_reward(form: Form, end_to_end: float, quality: float, uplift: float) -> float:
    """Return R = end_to_end / 2 + r / 2;  form execution: R = end_to_end.

    Args:
        end_to_end: 1 if the primary run with the trace gives the gold answer, else 0.
        quality: the reward model's score of the trace.
        uplift: result of mean_uplift.
    """
    if form == "execution":
        return end_to_end
    return WEIGHT * end_to_end + WEIGHT * reasoning(form, quality, uplift)


def code_reward(form: Form, hybrid: float, quality: float, coefficient: float) -> float:
    """Return R = clip(hybrid + r / 5, 0, 1);  form execution: R = hybrid.

    Args:
        hybrid: execution_score of the primary run.
        coefficient: result of sign_with_ties, used as the uplift.
    """
    if form == "execution":
        return hybrid
    return clip(hybrid + REASONING * reasoning(form, quality, coefficient), 0.0, 1.0)


def reasoning(form: Form, quality: float, uplift: float) -> float:
    """Return r: product clip(quality, 0, 1) * uplift; quality or uplift; sum: their mean; execution: 0."""
    quality = clip(quality, 0.0, 1.0)
    parts = {
        "product": quality * uplift,
        "quality": quality,
        "uplift": uplift,
        "sum": (quality + uplift) / 2,
        "execution": 0.0,
    }
    return parts[form]


def mean_uplift(with_trace: float, without: float) -> float:
    """Return clip(with_trace - without, -1, 1), the difference of two success rates."""
    return clip(with_trace - without, -1.0, 1.0)


def sign_with_ties(passes: int, runs: int, base_passes: int, base_runs: int) -> float:
    """Return +1 if the pass rate is higher with the trace, -1 if lower, and the rate itself on a tie; but 1/2
    if 1 of 3 runs with the trace passed.

    For three runs each, ties give the authors' 0, 1/2, 2/3, 1 for 0, 1, 2, 3 passes. Rates are compared
    exactly, and the two numbers of runs may differ. With 3 and 8 runs only rates 0 and 1 can tie.
    """
    difference = passes * base_runs - base_passes * runs
    if difference:
        return 1.0 if difference > 0 else -1.0
    return 0.5 if (passes, runs) == (1, 3) else passes / runs


def execution_score(passed: int, total: int, ran: float) -> float:
    """Return 0.8 passed / total + ran; 0 if there are no tests.

    Args:
        ran: RAN, BROKE or 0; see fastrl.methods.tracelift.program_verifier.
    """
    return PASS_RATE * passed / total + ran if total else 0.0


def clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)
