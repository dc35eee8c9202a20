"""InT in the tiny world: interventions and RL against RL only and against other uses of a reference.

    python -m bench.study_int --seeds 0 1 2 --steps 40 --out bench/results/int_study.json

Each seed makes its own world, finds the hard problems and lets the solver intervene in its failed attempts.
Arms and cells are those of fastrl/tiny/reproduce/interventions.py. Stopped studies are resumed. The last line
is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from fastrl.runtime.run import environment, write_atomic
from fastrl.tiny.interventions.config import IntConfig, solver_world
from fastrl.tiny.reproduce.interventions import ARMS, CELLS, InterventionStudy


def grid(rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def over_seeds(values: list[float | None], form: str = ".3f") -> str:
    """Format the mean and each seed's number; "-" if a seed has none."""
    if any(value is None for value in values):
        return "-"
    known = cast(list[float], values)
    return f"{statistics.mean(known):{form}} ({' '.join(f'{value:{form}}' for value in known)})"


def path_in(found: Any, *names: str) -> Any:
    """Return found[name][name]..., None if a name is missing."""
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return found


def arm_table(seeds: list[dict[str, Any]], arms: list[str], num_samples: int) -> str:
    """Format results on held-out hard problems and RL's statistics, one column per arm."""
    metrics = [f"avg@{num_samples}", *(f"pass@{k}" for k in (4, 16, 64) if k <= num_samples)]
    metrics += ["maj@4", "hard_steps_right", "entropy"]
    rows = [["", "before", *arms]]
    for metric in metrics:
        before = over_seeds([path_in(seed, "before", metric) for seed in seeds])
        after = [over_seeds([path_in(seed, "arms", arm, "after", metric) for seed in seeds]) for arm in arms]
        rows.append([metric, before, *after])
    for metric in (metrics[0], metrics[-1]):
        sft = [
            over_seeds([path_in(seed, "arms", arm, "after_sft", metric) for seed in seeds]) for arm in arms
        ]
        rows.append([f"{metric}, after SFT", "", *sft])
    inner = (
        ("NLL under the solver", "sft", "base/nll", ".3f"), ("SFT rows", "sft", "rows", ".0f"),
        ("SFT steps", "sft", "steps", ".0f"), ("RL steps", "rl", "steps", ".0f"),
        ("zero-advantage groups", "rl", "zero_advantage", ".3f"), ("entropy in RL", "rl", "entropy", ".3f"),
        ("tokens before RL", "tokens", "before_rl", ".0f"), ("tokens", "tokens", "all", ".0f"),
    )  # fmt: skip
    for label, section, name, form in inner:
        cells = [
            over_seeds([path_in(seed, "arms", arm, section, name) for seed in seeds], form) for arm in arms
        ]
        rows.append([label, "", *cells])
    return grid(rows)


def cell_table(seeds: list[dict[str, Any]], cells: list[str], num_samples: int) -> str:
    """Format results after SFT only, on trained and held-out problems; pass@n is coverage."""
    rows = [["", *cells]]
    for on in ("hard", "test"):
        for metric in (f"avg@{num_samples}", f"pass@{num_samples}"):
            rows.append(
                [f"{on} {metric}"]
                + [over_seeds([path_in(seed, "cells", c, on, metric) for seed in seeds]) for c in cells]
            )
    rows.append(
        ["rows"] + [over_seeds([path_in(s, "cells", c, "sft", "rows") for s in seeds], ".0f") for c in cells]
    )
    return grid(rows)


def intervention_table(seeds: list[dict[str, Any]]) -> str:
    """Format the interventions' positions, and success rates from prefix, wrong step and intervention."""
    rows = [["interventions", "count", "exact", "within one", "right"]]
    for group in ("read", "distinct", "selected"):
        names = ("count", "exact", "within_one", "right")
        forms = (".0f", ".3f", ".3f", ".3f")
        rows.append(
            [group]
            + [
                over_seeds([seed["quality"].get(f"{group}/{name}") for seed in seeds], form)
                for name, form in zip(names, forms, strict=True)
            ]
        )
    arms = [["from", "mean success", "problems covered", "problems"]]
    for arm in seeds[0]["funnel"]["efficacy"]:
        cells = [[seed["funnel"]["efficacy"].get(arm, {}).get(name) for seed in seeds] for name in
                 ("mean_success", "problems_covered", "problems")]  # fmt: skip
        arms.append([arm, over_seeds(cells[0]), over_seeds(cells[1], ".0f"), over_seeds(cells[2], ".0f")])
    return f"{grid(rows)}\n\n{grid(arms)}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=40, help="RL steps of the arm int")
    parser.add_argument("--arms", nargs="*", choices=ARMS, default=list(ARMS))
    parser.add_argument("--cells", nargs="*", choices=CELLS, default=list(CELLS))
    parser.add_argument("--problems", type=int, default=128, help="problems per evaluation")
    parser.add_argument("--samples", type=int, default=64, help="samples per problem")
    parser.add_argument("--runs", type=Path, default=Path("runs/study-int"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    seeds = []
    for seed in options.seeds:
        config = IntConfig(world=replace(solver_world(), seed=seed))
        study = InterventionStudy(
            seed, options.steps, options.problems, options.samples, options.runs / str(seed), config
        )
        seeds.append(study.run(options.arms, options.cells))
    print(intervention_table(seeds), end="\n\n")
    print(arm_table(seeds, options.arms, options.samples), end="\n\n")
    print(cell_table(seeds, options.cells, options.samples))
    report = {
        "bench": "study_int",
        "steps": options.steps,
        "samples": options.samples,
        "results": seeds,
        "environment": environment(),
    }
    if options.out:
        write_atomic(options.out, json.dumps(report, indent=2) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
