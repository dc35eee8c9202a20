"""Engine metrics of a step: tokens requested, computed and read, and the time per phase."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from fastrl.engine.protocol import Engine, EngineStats
from fastrl.runtime.distributed import Ranks

Counted = dict[str, EngineStats]


def count(engines: Mapping[str, Engine]) -> Counted:
    """Return the current counters of each engine."""
    return {name: engine.stats() for name, engine in engines.items()}


def engine_metrics(before: Counted, after: Counted, ranks: Ranks) -> dict[str, float]:
    """Return engine/NAME/COUNTER and time/NAME_PHASE_s of a step, summed over ranks.

    Savings by shared prefixes:

        prefill_saved  = 1 - prefill_tokens / prompt_tokens_asked
        kv_reads_saved = 1 - kv_tokens_read / kv_tokens_asked
    """
    metrics: dict[str, float] = {}
    for name, end in after.items():
        start = asdict(before[name])
        # `finished` equals `requests` between calls
        counters = {name: value - start[name] for name, value in asdict(end).items() if name != "finished"}
        summed = dict(zip(counters, ranks.sum(list(counters.values())), strict=True))
        for field, value in summed.items():
            if field.endswith("_ms"):
                metrics[f"time/{name}_{field.removesuffix('_ms')}_s"] = value / 1e3
            else:
                metrics[f"engine/{name}/{field}"] = value
        for saved, done, asked in (
            ("prefill_saved", "prefill_tokens", "prompt_tokens_asked"),
            ("kv_reads_saved", "kv_tokens_read", "kv_tokens_asked"),
        ):
            if summed[asked]:
                metrics[f"engine/{name}/{saved}"] = 1 - summed[done] / summed[asked]
    return metrics
