"""Training examples of the world's models as JSONL rows."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any

from fastrl.tiny.world.config import WorldConfig
from fastrl.tiny.world.notation import STYLES
from fastrl.tiny.world.task import Chain
from fastrl.tiny.world.traces import reference_solution, work, wrong_entries


def problem_row(chain: Chain) -> dict[str, Any]:
    return {"prompt": chain.expression, "solution": str(chain.answer), "expression": chain.expression}


def generator_row(config: WorldConfig, chain: Chain, random: Random) -> dict[str, Any]:
    """Return a trace in one of the three styles, with slips and systematic errors."""
    table = wrong_entries(config.num_wrong_entries, config.seed, config.chains.modulus)
    (place,) = random.choices(range(len(STYLES)), weights=config.style_shares)
    trace = work(chain, random, style=STYLES[place], slip_rate=config.slip_rates[place], table=table)
    return {"prompt": chain.expression, "completion": trace}


def receiver_row(config: WorldConfig, chain: Chain, random: Random) -> dict[str, Any]:
    """Return the right explicit trace, from its start or from a random position."""
    trace = reference_solution(chain)
    if random.random() >= config.cut_share:
        return {"prompt": chain.expression, "completion": trace}
    cut = random.randrange(len(trace))
    begun = [{"role": "user", "content": chain.expression}, {"role": "assistant", "content": trace[:cut]}]
    return {"prompt": begun, "completion": trace[cut:]}


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
