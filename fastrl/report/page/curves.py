"""Curves of a run with units, time per phase, and its key numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastrl.report.plot import RunCurves, choose_panels, is_evaluation, is_smaller_k

Line = Mapping[str, Any]
# the first matching pattern gives a metric's unit
UNITS = (
    (r"^time/", "s"),
    (r"prefill_saved$|reads_saved$|ratio|^frac_|/share|_share$|/agreement$|accuracy", "share"),
    (r"^eval/(two_stage_|executor_alone_)?(avg|maj|pass)@", "share"),
    (r"length$|tokens?($|_)|_tokens", "tokens"),
    (r"requests$", "requests"),
    (r"^entropy$|^kl$|logprob|logp_difference|self_certainty/", "nats"),
    (r"tau_mean$", "share of the rollout"),
)


def unit(metric: str) -> str:
    """Return a metric's unit; "" if it has none."""
    return next((name for pattern, name in UNITS if re.search(pattern, metric)), "")


def curves(lines: Sequence[Line], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return every metric by step, the initial panels, and the metrics that are drawn together."""
    names = dict.fromkeys(name for line in lines for name in line if name != "step")
    logged = [name for name in names if any(line.get(name) is not None for line in lines)]
    phases, inside = phases_of(logged)
    weights = reward_weights(config)
    parts = [name for name in logged if name.startswith("rewards/") and name.endswith("/mean")]
    return {
        "steps": [line["step"] for line in lines],
        "series": {name: [line.get(name) for line in lines] for name in logged},
        "units": {name: text for name in logged if (text := unit(name))},
        "panels": choose_panels([RunCurves("", [dict(line) for line in lines])]),
        "components": [
            {"metric": name, "weight": weights.get(name.removeprefix("rewards/").removesuffix("/mean"))}
            for name in parts
        ],
        "phases": phases,
        "inside": inside,
    }


def phases_of(logged: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split time/ metrics into the step's consecutive phases, and times inside phases: those of engines and
    of batches sampled ahead."""
    engines = {name.split("/")[1] for name in logged if name.startswith("engine/")} | {"ahead"}
    times = [name for name in logged if name.startswith("time/")]
    inside = [
        name for name in times if name.removeprefix("time/").startswith(tuple(f"{e}_" for e in engines))
    ]
    return [name for name in times if name not in inside], inside


def reward_weights(config: Mapping[str, Any]) -> dict[str, float]:
    """Return the weights of the reward's components; empty if the stage has no reward."""
    reward = config.get("reward", {})
    return dict(zip(reward.get("functions", ()), reward.get("weights", ()), strict=True))


def tiles(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Return the run's key numbers: first and last evaluations, tokens, time."""
    if not lines:
        return []
    logged = {name for line in lines for name, value in line.items() if value is not None}
    heads = sorted(name for name in logged if is_evaluation(name) and not is_smaller_k(name, logged))
    found = [{"name": "steps", "value": lines[-1]["step"], "unit": ""}]
    for name in [*heads[:3], *[name for name in ("reward", "loss") if name in logged][:1]]:
        given = [line for line in lines if line.get(name) is not None]
        first, last = given[0], given[-1]
        ends = [last.get(f"{name}/low"), last.get(f"{name}/high")]
        tile = {"name": name, "first": first[name], "value": last[name], "unit": unit(name)}
        found.append(tile | ({"interval": ends} if None not in ends else {}))
    phases, _ = phases_of(sorted(logged))
    seconds = sum(line.get(phase) or 0.0 for line in lines for phase in phases)
    tokens = sum(line.get("num_tokens") or 0 for line in lines)
    if tokens:
        found.append(
            {"name": "tokens of rollouts" if "reward" in logged else "tokens", "value": tokens, "unit": ""}
        )
    if seconds:
        found.append({"name": "time in steps", "value": seconds, "unit": "s"})
    return found
