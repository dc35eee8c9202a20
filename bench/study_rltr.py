"""Compare RLVR and RLTR in the tiny world per seed: accuracy, majority vote, transfer and notation.

    python -m bench.study_rltr --seeds 0 1 2 --steps 60 --out bench/results/rltr_study.json

Each seed makes its own world (models and problems) and trains its generator twice from the same start.
Stopped runs are resumed. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from fastrl.runtime.run import environment
from fastrl.tiny.reproduce.rltr import ARMS, RltrStudy
from fastrl.tiny.world.config import WorldConfig

SHOWN = (
    "avg@16", "maj@16", "transfer/receiver", "transfer/held_out_receiver", "transfer/receiver/stripped",
    "transfer/held_out_receiver/stripped", "style/explicit", "style/private", "style/leap", "step_accuracy",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--runs", type=Path, default=Path("runs/study"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    seeds = [
        RltrStudy(
            seed, options.steps, 128, 16, options.runs / str(seed), WorldConfig(seed=seed), stripped=True
        ).run()
        for seed in options.seeds
    ]
    for name in SHOWN:
        row = {arm: [result[arm][name] for result in seeds] for arm in ("before", *ARMS)}
        cells = [
            f"{arm} {statistics.mean(v):.3f} ({' '.join(f'{x:.2f}' for x in v)})" for arm, v in row.items()
        ]
        print(f"{name:36s} " + "   ".join(cells))
    print("steps to RLVR's final training accuracy:", [result["steps_to_it"] for result in seeds])
    report = {"bench": "study_rltr", "steps": options.steps, "results": seeds, "environment": environment()}
    if options.out:
        options.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
