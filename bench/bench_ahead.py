"""Time RL steps that sample the next batch during the update (rollout.max_staleness 1), and steps that don't.

    OMP_NUM_THREADS=1 python -m bench.bench_ahead --model tiny-world/generator --data tiny-world/train.jsonl

With one thread each on a machine of two cores, engine and trainer have a core each, as they would have a GPU
each. The time of a step is the sum of its phases. The first and the last step are left out: nothing overlaps
there. The learning rate (1e-9) is too small for lengths to drift apart. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from fastrl.config import (
    CheckpointConfig,
    DataConfig,
    ModelConfig,
    RewardConfig,
    RlConfig,
    RolloutConfig,
    RunConfig,
    TrainConfig,
    TransferConfig,
)
from fastrl.report.page.curves import phases_of
from fastrl.runtime.run import environment, read_metrics
from fastrl.train import run_stage

PROMPTS, GROUP, LENGTH, LEARNING_RATE = 16, 8, 48, 1e-9
SHOWN = ("time/rollout_s", "time/reward_s", "time/ahead_s", "time/wait_s", "time/update_s")


def config_of(options: argparse.Namespace, max_staleness: int, folder: str) -> RlConfig:
    """Return RLVR's configuration, or RLTR's if a receiver is given."""
    names = ("answer", "transfer") if options.receiver else ("answer",)
    return RlConfig(
        run=RunConfig(dir=folder, save_every=0, log_completions_every=0),
        model=ModelConfig(path=options.model),
        data=DataConfig(path=options.data),
        rollout=RolloutConfig(
            num_prompts=PROMPTS, group_size=GROUP, max_new_tokens=LENGTH, max_staleness=max_staleness
        ),
        reward=RewardConfig(functions=names, weights=(1.0,) * len(names)),
        transfer=TransferConfig(receiver=CheckpointConfig(path=options.receiver), slack_tokens=8),
        train=TrainConfig(num_steps=options.steps + 2, learning_rate=LEARNING_RATE),
    )


def steps_of(config: RlConfig) -> dict[str, float]:
    """Train, and return the median seconds of a step and of each of its phases."""
    run_stage(config)
    lines = read_metrics(Path(config.run.dir) / "metrics.jsonl")[2:-1]
    phases, _ = phases_of(list(lines[0]))
    found = {"step": statistics.median(sum(line[phase] for phase in phases) for line in lines)}
    return found | {
        name: statistics.median(line[name] for line in lines) for name in SHOWN if name in lines[0]
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--receiver", default="", help="a model folder; adds the transfer reward")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="timed steps per variant and round")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found: dict[int, list[dict[str, float]]] = {0: [], 1: []}
    for number in range(options.rounds):
        for staleness in (0, 1) if number % 2 == 0 else (1, 0):
            with tempfile.TemporaryDirectory() as folder:
                found[staleness].append(steps_of(config_of(options, staleness, f"{folder}/run")))
    ratios = [before["step"] / ahead["step"] for before, ahead in zip(found[0], found[1], strict=True)]
    result: dict[str, Any] = {
        "bench": "ahead",
        "prompts": PROMPTS, "group_size": GROUP, "max_new_tokens": LENGTH,
        "rewards": ["answer", "transfer"] if options.receiver else ["answer"],
        "before_s": medians(found[0]), "beside_s": medians(found[1]),
        "before_over_beside": {
            "median": round(statistics.median(ratios), 3),
            "min": round(min(ratios), 3), "max": round(max(ratios), 3), "pairs": len(ratios),
        },
        "environment": environment(),
    }  # fmt: skip
    print(json.dumps(result))
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(times[name] for times in rounds), 4) for name in rounds[0]}


if __name__ == "__main__":
    main()
