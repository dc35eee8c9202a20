"""The reward of a trace: the formulas of TraceLift (arXiv 2605.03862) and of its ablations."""

from __future__ import annotations

from fastrl.config.uplift import Form

WEIGHT = 0.5
"""Math: of the primary run, and of the reasoning beside it."""
PASS_RATE, REASONING = 0.8, 0.2
"""Code: of the tests that pass, and of the reasoning."""
RAN, BROKE = 0.2, 0.05
"""Code: for a program that ran to the end of its tests' checks, and for one that broke or was too slow."""


def math_reward(form: Form, end_to_end: float, quality: float, uplift: float) -> float:
    """R = end_to_end / 2 + r / 2;  form execution: R = end_to_end.

    Args:
        end_to_end: 1 where the primary run with the trace gives the gold answer, otherwise 0.
        quality: the reward model's score of the trace.
        uplift: of mean_uplift.
    """
    if form == "execution":
        return end_to_end
    return WEIGHT * end_to_end + WEIGHT * reasoning(form, quality, uplift)


def code_reward(form: Form, hybrid: float, quality: float, coefficient: float) -> float:
    """R = clip(hybrid + r / 5, 0, 1);  form execution: R = hybrid.

    Args:
        hybrid: of execution_score, of the primary run.
        coefficient: of sign_with_ties, in the place of the uplift.
    """
    if form == "execution":
        return hybrid
    return clip(hybrid + REASONING * reasoning(form, quality, coefficient), 0.0, 1.0)


def reasoning(form: Form, quality: float, uplift: float) -> float:
    """r = clip(quality, 0, 1) * uplift;  quality or uplift alone; sum: half of both; execution: 0."""
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
    """clip(share of right runs with the trace - share without, -1, 1)."""
    return clip(with_trace - without, -1.0, 1.0)


def sign_with_ties(passes: int, runs: int, base_passes: int, base_runs: int) -> float:
    """+1 where more runs pass with the trace than without, -1 where fewer; a tie at rate p: 0 if p = 0, else
    max(1/2, p).

    With three runs of each that is the paper's rule, 0, 1/2, 2/3, 1 for 0, 1, 2, 3 passes; the formula is our
    reading of it for other numbers. Rates are compared, exactly, so that both sides may have their own number
    of runs.
    """
    difference = passes * base_runs - base_passes * runs
    if difference:
        return 1.0 if difference > 0 else -1.0
    return max(0.5, passes / runs) if passes else 0.0


def execution_score(passed: int, total: int, ran: float) -> float:
    """0.8 passed / total + ran, and 0 where there are no tests.

    Args:
        ran: RAN, BROKE or 0; see fastrl.methods.tracelift.program_verifier.
    """
    return PASS_RATE * passed / total + ran if total else 0.0


def clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)
