"""Summary numbers of a run: first and last values, saturation step, gains, alarms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fastrl.evaluate.saturation import ema, gains, saturation_step
from fastrl.report.console import is_headline
from fastrl.report.plot import RunCurves, is_smaller_k

FORMS = ("", " (EMA)")
GAINS = ("gain until t_sat", "gain after", "gain after as printed")


def possible(metrics: Sequence[str], known: Iterable[str]) -> list[str]:
    """Return all possible columns in order."""
    names = ["steps", *(f"{metric} {end}" for metric in metrics for end in ("start", "end"))]
    for form in FORMS:
        names.append(f"t_sat{form}")
        names += [f"{metric} {gain}{form}" for metric in metrics for gain in GAINS]
    names += sorted(name for name in known if name.startswith("alarm/"))
    return list(dict.fromkeys(names))


def quantities(run: RunCurves, metrics: Sequence[str]) -> dict[str, float]:
    """Return one run's numbers by column."""
    if not run.lines:
        return {}
    found: dict[str, float] = {"steps": run.lines[-1]["step"]}
    for metric in metrics:
        _, values = run.series(metric)
        if values:
            found |= {f"{metric} start": values[0], f"{metric} end": values[-1]}
    found |= saturation(run, metrics)
    for alarm in sorted({name for line in run.lines for name in line if name.startswith("alarm/")}):
        raised = [step for step, value in zip(*run.series(alarm), strict=True) if value]
        found |= {f"{alarm} at": raised[0]} if raised else {}
    return found


def saturation(run: RunCurves, metrics: Sequence[str]) -> dict[str, float]:
    """Return t_sat of the raw and smoothed reward, and gains until and after it of metrics with a step 0."""
    steps, rewards = run.series("reward")  # without updates whose reward is unknown
    found: dict[str, float] = {}
    for form, curve in zip(FORMS, (rewards, ema(rewards) if rewards else []), strict=True):
        place = saturation_step(curve) if max(curve, default=-1) >= 0 else None
        if place is None:
            continue
        t_sat = steps[place - 1]
        found[f"t_sat{form}"] = t_sat
        for metric in metrics:
            values = dict(zip(*run.series(metric), strict=True))
            if 0 not in values:
                continue
            gained = gains(values, t_sat)
            named = zip(GAINS, (gained.until, gained.strictly_after, gained.after), strict=True)
            found |= {f"{metric} {gain}{form}": value for gain, value in named if value is not None}
    return found


def headline_metrics(runs: Iterable[RunCurves]) -> list[str]:
    """Return the default metrics: evaluations and reward; loss if there is neither."""
    logged = {name for run in runs for line in run.lines for name in line}
    evaluations = sorted(name for name in logged if is_headline(name) and not is_smaller_k(name, logged))
    chosen = [*evaluations, *(["reward"] if "reward" in logged else [])]
    return chosen or [name for name in ("loss",) if name in logged]
