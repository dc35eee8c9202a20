"""Make the references of fastrl compare: train every *-tiny recipe with several seeds; write bands and plots.

    fastrl tiny --tracelift true --int true --weak true          # once: tiny-world, in the working directory
    python -m bench.make_references                              # about twenty minutes of one core
    python -m bench.make_references --recipe rlvr-tiny --seeds 0 1 2 3 4

Recipes run one after another in this process with the flags of SHORTER (fewer steps); a longer run is
compared over its reference's steps. Runs that were stopped are resumed. After each recipe the script prints
which seeds lie outside the bands of the others.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastrl.config.load import load_config, to_dict
from fastrl.runtime.run import write_atomic
from fastrl.tools.compare.findings import false_alarms
from fastrl.tools.compare.picture import draw_reference
from fastrl.tools.compare.reference import FOLDER, make_reference, write_reference
from fastrl.tools.compare.runs import read_record
from fastrl.train import run_recipe

PICTURES = Path(__file__).parent / "results" / "references"
"""Kept out of the wheel: no code reads them."""
TRACELIFT = ["--reward_model.train.num_steps=30", "--rl.train.num_steps=10"]
STARTS = ("base_thinking", "base_plain", "cpt_thinking", "cpt_plain")
SHORTER: dict[str, list[str]] = {
    "rlvr-tiny": [],
    "rltr-tiny": [],
    "sft-tiny": [],
    "weak-majority-tiny": ["--train.num_steps=20"],
    "weak-selfcertainty-tiny": ["--train.num_steps=20", "--eval.every=0"],
    "weak-scarce-tiny": ["--rl.train.num_steps=20", "--rl.eval.every=0"],
    "weak-noise-tiny": ["--rl.train.num_steps=20", "--rl.eval.every=0"],
    "int-tiny": ["--rl.train.num_steps=10"],
    "tracelift-math-tiny": TRACELIFT,
    "tracelift-code-tiny": TRACELIFT,
    "weak-2x2-tiny": [
        "--cpt.train.num_steps=20",
        *(f"--sft_{start}.train.num_steps=80" for start in STARTS),
        *(f"--subset_{start}.data.limit=48" for start in STARTS),
        *(f"--rl_{start}.train.num_steps=10" for start in STARTS),
        *(f"--rl_{start}.eval.every=0" for start in STARTS),
        *(f"--rl_{start}.eval.limit=32" for start in STARTS),
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", nargs="+", choices=[*SHORTER], default=[*SHORTER])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--runs", type=Path, default=Path("runs/references"))
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--pictures", type=Path, default=PICTURES)
    given = parser.parse_args()
    for recipe in given.recipe:
        folders = [train(recipe, seed, given.runs) for seed in given.seeds]
        summarise(recipe, folders, given.out, given.pictures)


def train(recipe: str, seed: int, runs: Path) -> Path:
    """Train a recipe with a seed, unless it is finished already; return its folder."""
    folder = runs / recipe / f"seed-{seed}"
    done = folder.with_name(f"{folder.name}.json")
    flags = [*SHORTER[recipe], f"--run.dir={folder}", f"--run.seed={seed}", "--run.device=cpu"]
    config = load_config(recipe, flags)
    if done.is_file() and json.loads(done.read_text())["config"] == to_dict(config):
        return folder
    before = cpu_seconds()
    run_recipe(config)
    for checkpoints in folder.rglob("checkpoints"):
        shutil.rmtree(checkpoints)
    took: dict[str, Any] = {"config": to_dict(config), "cpu_s": round(cpu_seconds() - before, 1)}
    write_atomic(done, json.dumps(took) + "\n")
    print(f"{recipe} seed {seed}: {took['cpu_s']} s of CPU", flush=True)
    return folder


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of its ended children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def summarise(recipe: str, folders: Sequence[Path], out: Path, pictures: Path) -> None:
    """Write the reference and its picture; print which seeds lie outside the bands of the others."""
    reference = make_reference([read_record(folder) for folder in folders], recipe, flags=SHORTER[recipe])
    write_reference(reference, out / f"{recipe}.jsonl")
    draw_reference(reference, pictures / f"{recipe}.png")
    alarms = {
        seed: [f"{alarm.stage} {alarm.metric} {alarm.beyond:.2f}" for alarm in failed]
        for seed, failed in false_alarms(reference)
        if failed
    }
    print(
        f"{recipe}: {len(alarms)} of {len(folders)} seeds outside the others' bands {alarms or ''}",
        flush=True,
    )


if __name__ == "__main__":
    main()
