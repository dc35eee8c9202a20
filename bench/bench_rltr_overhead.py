"""Time the transfer reward's overhead on an RLVR step for several numbers of cuts and continuations.

    python -m bench.bench_rltr_overhead --world tiny-world [--steps 4] [--rounds 3]

All variants use one policy and one receiver and take turns in every round, so that a busy machine disturbs
all alike. Weights hardly move. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

from bench.bench_step import fastrl_config, fastrl_steps, summary
from fastrl.config import CheckpointConfig, RewardConfig, RlConfig, TransferConfig
from fastrl.runtime.context import Context
from fastrl.runtime.run import environment
from fastrl.stages.build import build_rl
from fastrl.training.parts import Parts

VARIANTS = ((1, 1), (2, 1), (4, 1), (1, 4), (4, 4))
"""(cuts, continuations)."""


def with_transfer(config: RlConfig, receiver: str, cuts: int, samples: int, folder: str) -> RlConfig:
    transfer = TransferConfig(
        receiver=CheckpointConfig(path=receiver), num_cuts=cuts, num_continuations=samples, slack_tokens=16
    )
    return replace(
        config,
        run=replace(config.run, dir=folder),
        reward=RewardConfig(functions=("answer", "transfer"), weights=(1.0, 1.0)),
        transfer=transfer,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--world", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4, help="timed steps per variant and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    world = given.world
    with tempfile.TemporaryDirectory() as folder:
        plain = fastrl_config(str(world / "generator"), str(world / "train.jsonl"), f"{folder}/rlvr")
        configs = {"RLVR": plain} | {
            f"RLTR K={cuts} N={samples}": with_transfer(
                plain, str(world / "receiver"), cuts, samples, f"{folder}/{cuts}-{samples}"
            )
            for cuts, samples in VARIANTS
        }
        parts: dict[str, Parts] = {name: build_rl(config) for name, config in configs.items()}
        contexts = {name: Context.start(config) for name, config in configs.items()}
        times: dict[str, list[dict[str, float]]] = {name: [] for name in configs}
        for number in range(given.rounds + 1):
            for name, context in contexts.items():
                found = fastrl_steps(context, parts[name], given.steps, number * given.steps)
                times[name] += found if number else []
        for variant in parts.values():
            variant.grader.close()
    base = statistics.median(t["step"] for t in times["RLVR"])
    print(f"{'':16} {'step':>8} {'over RLVR':>10}   phases (s)")
    for name, own in times.items():
        found = summary(own)
        phases = ", ".join(
            f"{key} {value:.3f}" for key, value in found.items() if key not in ("step", "tokens")
        )
        print(f"{name:16} {found['step']:8.3f} {found['step'] / base - 1:10.0%}   {phases}")
    report = {"environment": environment(), "results": times}
    if given.out:
        given.out.write_text(json.dumps(report) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
