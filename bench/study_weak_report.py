"""The report of bench.study_weak: rank correlations with intervals, tables, two plots."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from fastrl.evaluate.saturation import ema
from fastrl.report.plot import COLORS, INK

Run = dict[str, Any]
PREDICTORS = {
    "faithful": "faithfulness/checker/aligned",
    "faithful | right": "faithfulness/checker/correct/aligned",
    "forced answers": "faithfulness/forced",
    "corruption": "faithfulness/corruption",
    "diversity": "diversity/effective",
    "evenness": "diversity/evenness",
    "faithful diversity": "diversity/faithful/effective",
    "accuracy": "test",
}
OUTCOMES = {
    "t_sat": "t_sat_ema",
    "gain, test": "test/gain",
    "gain, long": "long/gain",
}
RESAMPLES = 1000


def ranks(values: Sequence[float]) -> list[float]:
    """Return ranks from 1; equal values share the mean of their ranks."""
    order = sorted(values)
    return [order.index(value) + (order.count(value) + 1) / 2 for value in values]


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation; None if x or y is constant."""
    if len(set(x)) < 2 or len(set(y)) < 2:
        return None
    return statistics.correlation(ranks(x), ranks(y))


def with_interval(pairs: dict[str, list[tuple[float, float]]], seed: int = 0) -> dict[str, Any] | None:
    """Return Spearman's rho over all runs with a 95 % bootstrap interval that resamples whole mixes.

    Args:
        pairs: (predictor, outcome) of each run, by mix.
    Returns: rho, low, high, runs, resampled (draws in which rho is defined); None if rho is undefined.
    """
    rho = rho_of(list(pairs.values()))
    if rho is None:
        return None
    random, mixes = Random(seed), list(pairs)
    draws = [[pairs[mix] for mix in random.choices(mixes, k=len(mixes))] for _ in range(RESAMPLES)]
    values = sorted(value for draw in draws if (value := rho_of(draw)) is not None)
    low, high = (values[round(share * (len(values) - 1))] for share in (0.025, 0.975))
    return {
        "rho": rho,
        "low": low,
        "high": high,
        "runs": sum(map(len, pairs.values())),
        "resampled": len(values),
    }


def rho_of(groups: Sequence[Sequence[tuple[float, float]]]) -> float | None:
    flat = [pair for group in groups for pair in group]
    return spearman([x for x, _ in flat], [y for _, y in flat])


def correlations(runs: Sequence[Run]) -> dict[str, dict[str, dict[str, Any] | None]]:
    """Return {setting: {"predictor -> outcome": with_interval}}; runs that lack either are left out."""
    found: dict[str, dict[str, dict[str, Any] | None]] = {}
    for setting in settings_of(runs):
        own = found[setting] = {}
        for predictor, key in PREDICTORS.items():
            for outcome, name in OUTCOMES.items():
                pairs: dict[str, list[tuple[float, float]]] = {}
                for run in select(runs, setting=setting):
                    x, y = run["before"].get(key), run.get(name)
                    if x is not None and y is not None:
                        pairs.setdefault(run["mix"], []).append((x, y))
                own[f"{predictor} -> {outcome}"] = with_interval(pairs) if pairs else None
    return found


def settings_of(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(run["setting"] for run in runs))


def mixes_of(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(run["mix"] for run in runs))


def select(runs: Sequence[Run], **wanted: Any) -> list[Run]:
    return [run for run in runs if all(run[name] == value for name, value in wanted.items())]


def final(runs: Sequence[Run]) -> dict[str, dict[str, float]]:
    """Return {setting: {mix: mean final accuracy on held-out problems}}."""
    return {
        setting: {
            mix: statistics.mean(run["test/final"] for run in select(runs, setting=setting, mix=mix))
            for mix in mixes_of(runs)
        }
        for setting in settings_of(runs)
    }


def failed(runs: Sequence[Run], margin: float) -> list[tuple[str, str]]:
    """Return (setting, mix) pairs whose mean final accuracy is over `margin` below the setting's best."""
    return [
        (setting, mix)
        for setting, means in final(runs).items()
        for mix, value in means.items()
        if max(means.values()) - value > margin
    ]


def mean_of(runs: Sequence[Run], value: Callable[[Run], float | None], form: str = ".2f") -> str:
    """Format the mean and each seed's number; "-" for a seed without one."""
    values = [value(run) for run in runs]
    known = [number for number in values if number is not None]
    shown = " ".join("-" if number is None else f"{number:{form}}" for number in values)
    return f"{statistics.mean(known):{form}} ({shown})" if known else "-"


def grid(rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def before_table(runs: Sequence[Run]) -> str:
    """Format the measurements before RL, one row per mix."""
    keys = {"accuracy, long": "long", **PREDICTORS}
    rows = [["before RL", *keys]]
    first = settings_of(runs)[0]
    for mix in mixes_of(runs):
        chosen = select(runs, setting=first, mix=mix)
        rows.append(
            [mix, *(mean_of(chosen, lambda run, key=key: run["before"].get(key)) for key in keys.values())]
        )
    return grid(rows)


def outcome_table(runs: Sequence[Run]) -> str:
    """Format the results after RL, one row per setting and mix."""
    columns = {
        "t_sat": ("t_sat_ema", ".0f"), "raw": ("t_sat", ".0f"), "test": ("test/final", ".2f"),
        "until": ("test/until", "+.2f"), "after": ("test/after", "+.2f"), "long": ("long/final", ".2f"),
        "long until": ("long/until", "+.2f"), "long after": ("long/after", "+.2f"),
        "effective": ("effective", ".2f"), "alarm": ("alarm", ".0f"), "gold falls": ("gold_collapse", ".0f"),
        "lead": ("lead", ".0f"),
    }  # fmt: skip
    rows = [["setting", "mix", *columns]]
    for setting in settings_of(runs):
        for mix in mixes_of(select(runs, setting=setting)):
            chosen = select(runs, setting=setting, mix=mix)
            cells = [
                mean_of(chosen, lambda run, key=key: run.get(key), form) for key, form in columns.values()
            ]
            rows.append([setting, mix, *cells])
    return grid(rows)


def correlation_table(found: dict[str, dict[str, dict[str, Any] | None]]) -> str:
    """Format Spearman's rho, one row per predictor and outcome, one column per setting."""
    rows = [["Spearman's rho", *found]]
    for name in next(iter(found.values()), {}):
        cells = []
        for setting in found:
            one = found[setting][name]
            cells.append("-" if one is None else f"{one['rho']:+.2f} [{one['low']:+.2f}, {one['high']:+.2f}]")
        rows.append([name, *cells])
    return grid(rows)


def report_text(
    runs: Sequence[Run], certain: Sequence[Run], rescued: Sequence[Run],
    found: dict[str, dict[str, dict[str, Any] | None]],
) -> str:  # fmt: skip
    parts = [before_table(runs), outcome_table([*runs, *certain])]
    if rescued:
        parts += ["after SFT on explicit traces:", before_table(rescued), outcome_table(rescued)]
    return "\n\n".join([*parts, correlation_table(found)])


def figure(num_panels: int) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(4.6 * num_panels, 3.9), facecolor="white")
    FigureCanvasAgg(made)
    panels = [made.add_subplot(1, num_panels, place + 1) for place in range(num_panels)]
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK, labelsize=8)
        axes.grid(alpha=0.2)
    return made, panels


def curves_png(runs: Sequence[Run], path: Path) -> None:
    """Plot the training reward (moving average) and held-out accuracy (dashed), as means over seeds.

    A reward outside [0, 1], like self-certainty, is replaced by the hidden gold reward.
    """
    made, panels = figure(len(settings_of(runs)))
    for axes, setting in zip(panels, settings_of(runs), strict=True):
        largest = max(max(run["rewards"]) for run in select(runs, setting=setting))
        shown = "rewards" if largest <= 1 else "gold"
        for color, mix in zip(COLORS, mixes_of(runs), strict=False):
            chosen = select(runs, setting=setting, mix=mix)
            if not chosen:
                continue
            curves = zip(*(ema(run[shown]) for run in chosen), strict=True)
            reward = [statistics.mean(values) for values in curves]
            axes.plot(range(1, len(reward) + 1), reward, color=color, label=mix)
            evaluated = [{int(t): value for t, value in run["curves"]["test"].items()} for run in chosen]
            steps = sorted(evaluated[0])
            test = [statistics.mean(curve[step] for curve in evaluated) for step in steps]
            axes.plot(steps, test, color=color, linestyle="--", marker="o", markersize=3)
        axes.set_title(
            setting if shown == "rewards" else f"{setting}: hidden {shown}", fontsize=10, color=INK
        )
        axes.set_xlabel("step", fontsize=9, color=INK)
    panels[0].set_ylabel("reward (line), held-out accuracy (dashed)", fontsize=9, color=INK)
    panels[0].legend(fontsize=7, frameon=False)
    made.tight_layout()
    made.savefig(path, dpi=130)


def scatter_png(runs: Sequence[Run], path: Path) -> None:
    """Plot the gain on held-out problems against predictors before RL: a point per run, a panel each."""
    shown = ("faithful", "diversity", "faithful diversity", "accuracy")
    markers = dict(zip(settings_of(runs), "os^Dv", strict=False))
    made, panels = figure(len(shown))
    for axes, predictor in zip(panels, shown, strict=True):
        for color, mix in zip(COLORS, mixes_of(runs), strict=False):
            for setting, marker in markers.items():
                points = [
                    (run["before"][PREDICTORS[predictor]], run["test/gain"])
                    for run in select(runs, setting=setting, mix=mix)
                    if run["before"].get(PREDICTORS[predictor]) is not None
                ]
                label = mix if marker == "o" else None
                axes.scatter(
                    [x for x, _ in points],
                    [y for _, y in points],
                    s=22,
                    color=color,
                    marker=marker,
                    label=label,
                )
        axes.set_xlabel(f"{predictor} before RL", fontsize=9, color=INK)
    panels[0].set_ylabel("gain on held-out problems", fontsize=9, color=INK)
    panels[0].legend(fontsize=7, frameon=False)
    panels[-1].set_title(
        "  ".join(f"{m} {s}" for s, m in zip(markers, "●■▲◆▼", strict=False)), fontsize=8, color=INK
    )
    made.tight_layout()
    made.savefig(path, dpi=130)
