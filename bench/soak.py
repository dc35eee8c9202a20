"""Test recovery: a run is killed, terminated, given NaN gradients or a dead grader at random, and resumed.

    python -m bench.soak [--steps 1000] [--faults 200] [--kinds kill term nan] [--seconds 600] [--async-save]
        [--hidden 16] [--out FILE]

A tiny model trains twice for the same number of steps, once undisturbed and once with faults. Both runs must
end with the same metrics and the same bits. After every fault all checkpoints must be complete: their digests
match, and transformers loads exactly their weights. The result holds, per fault, the interrupted phase, the
last written file of a checkpoint and the exit code, and the undisturbed run's resident memory over its steps.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from bench.soak_child import Progress, child
from fastrl.config import (
    AnswerConfig,
    DataConfig,
    EvalConfig,
    ModelConfig,
    RewardConfig,
    RlConfig,
    RolloutConfig,
    RunConfig,
    TrainConfig,
)
from fastrl.policy.checkpoint import complete_checkpoints, damaged, digest
from fastrl.runtime.run import environment, read_metrics
from fastrl.tiny.world.models import Shape, initialise

KINDS = ("kill", "save", "file", "term", "nan", "grader")
"""kill: SIGKILL at a random moment; save: SIGKILL while a checkpoint is written; file: SIGKILL just before
the n-th access to a file of the run; term: SIGTERM; nan: a gradient becomes NaN; grader: the grading process
is killed at every n-th pair, and later the run as with kill."""
ENDS = {
    "kill": -signal.SIGKILL,
    "save": -signal.SIGKILL,
    "file": -signal.SIGKILL,
    "term": 143,
    "nan": 2,
    "grader": -signal.SIGKILL,
}
SHAPE = Shape(family="qwen3", hidden=16, layers=1, heads=2, kv_heads=1, head_dim=8, intermediate=16)
SAVE_EVERY = 2
PATH = re.compile(r"/\S*/")


@dataclass(frozen=True, slots=True)
class Struck:
    """One fault and its outcome."""

    kind: str
    phase: str
    code: int
    steps: int
    """Steps that the process had finished."""
    message: str
    """The last line on standard error."""
    written: str
    """The last written file of an unfinished checkpoint; "" if there was none."""
    half: tuple[str, ...]
    """Names of damaged checkpoints."""


def make_config(
    world: Path, folder: Path, num_steps: int, graded: bool, async_save: bool = False,
    hidden: int = SHAPE.hidden,
) -> RlConfig:  # fmt: skip
    """Return a configuration that uses most features of a step; with `graded`, rewards depend on math-verify.

    A wider model gets a smaller learning rate: one that repeats itself has no gradients that could differ.
    """
    rewards = ("answer", "bench.soak_child.graded" if graded else "bench.soak_child.spread")
    return RlConfig(
        run=RunConfig(
            dir=str(folder), save_every=SAVE_EVERY, async_save=async_save, log_completions_every=3, seed=5
        ),
        model=ModelConfig(path=str(world / "model")),
        data=DataConfig(path=str(world / "problems.jsonl")),
        rollout=RolloutConfig(num_prompts=2, group_size=3, max_new_tokens=6),
        reward=RewardConfig(functions=rewards, weights=(1.0, 1.0)),
        answer=AnswerConfig(workers=1),
        train=TrainConfig(num_steps=num_steps, learning_rate=1e-3 * SHAPE.hidden / hidden),
        eval=EvalConfig(path=str(world / "problems.jsonl"), limit=2, num_samples=2, every=5),
    )


def make_world(folder: Path, hidden: int = SHAPE.hidden) -> Path:
    shape = replace(SHAPE, hidden=hidden, intermediate=hidden)
    initialise(shape, folder / "model", seed=1)
    rows = [{"question": f"{a}+{a + 1}", "answer": str((2 * a + 1) % 10)} for a in range(9)]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def launch(config: RlConfig, progress: Progress, errors: Path, fault: tuple[str, int] | None = None) -> int:
    """Fork a process that runs the stage; return its id."""
    progress.clear()
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        os._exit(child(config, progress, errors, fault))
    return pid


def strike(
    config: RlConfig, kind: str, draw: Random, progress: Progress, errors: Path, stride: int
) -> Struck:
    """Start the run, cause one fault at a random moment, and wait for the end."""
    least, most = {"file": (1, 120 * stride), "nan": (1, 2 * stride), "grader": (4, 16)}.get(kind, (0, 0))
    pid = launch(config, progress, errors, (kind, draw.randint(least, most)) if most else None)
    ended: list[int] = []
    waiter = threading.Thread(target=lambda: ended.append(os.waitpid(pid, 0)[1]))
    waiter.start()
    if kind == "save":
        # a process killed during its first checkpoint would make no progress
        wanted = draw.randint(1, max(3, stride))
        while waiter.is_alive() and progress.saves < wanted:
            time.sleep(0.0002)
        time.sleep(draw.uniform(0, progress.save_seconds))
        if waiter.is_alive():
            os.kill(pid, signal.SIGKILL)
    if kind in ("kill", "term", "grader"):
        # a random step and a random moment within it; with no finished step it is still loading
        wanted = draw.randint(0 if kind == "kill" else 1, 2 * stride)
        while waiter.is_alive() and progress.steps < wanted:
            time.sleep(0.001)
        time.sleep(draw.uniform(0, progress.seconds_per_step if wanted else 1.0))
        if waiter.is_alive():
            os.kill(pid, signal.SIGTERM if kind == "term" else signal.SIGKILL)
    waiter.join()
    lines = errors.read_text().strip().splitlines() if errors.exists() else []
    code = os.waitstatus_to_exitcode(ended[0])
    checkpoints = Path(config.run.dir) / "checkpoints"
    half = [path.name for path in complete_checkpoints(checkpoints) if not is_whole(path)]
    last = lines[-1] if lines else ""
    return Struck(kind, progress.phase, code, progress.steps, last, last_written(checkpoints), tuple(half))


def is_whole(checkpoint: Path) -> bool:
    """Return whether fastrl and transformers find the checkpoint complete and unchanged."""
    if damaged(checkpoint):
        return False
    _, info = AutoModelForCausalLM.from_pretrained(checkpoint, output_loading_info=True)
    return not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def last_written(checkpoints: Path) -> str:
    """Return the last written file of an unfinished checkpoint; "" if there is none."""
    files = [path for path in checkpoints.glob(".step-*.partial/**/*") if path.is_file()]
    last = max(files, key=lambda path: path.stat().st_mtime_ns, default=None)
    if last is None:
        return ""
    return str(last.relative_to(checkpoints / last.relative_to(checkpoints).parts[0]))


def curve(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl without times."""
    lines = read_metrics(folder / "metrics.jsonl")
    return [{key: value for key, value in line.items() if "time/" not in key} for line in lines]


def first_difference(one: Path, other: Path) -> str:
    """Describe the first difference in metrics, or in the last checkpoint's tensors; "" if there is none."""
    for a, b in zip(curve(one), curve(other), strict=False):
        if a != b:
            names = sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))
            return f"step {a['step']}: " + ", ".join(f"{n} {a.get(n)} and {b.get(n)}" for n in names)
    if len(curve(one)) != len(curve(other)):
        return f"{len(curve(one))} and {len(curve(other))} lines"
    ends = [max((folder / "checkpoints").glob("step-*")) for folder in (one, other)]
    files = [{p.name: digest(p) for p in end.rglob("*.safetensors")} for end in ends]
    return "" if files[0] == files[1] and len(files[0]) > 1 else f"files of {ends[0].name}"


def soak(
    world: Path, num_steps: int, num_faults: int, kinds: Sequence[str], seed: int = 0, seconds: float = 1e9,
    report: Callable[[Struck], None] = lambda _: None, async_save: bool = False, hidden: int = SHAPE.hidden,
) -> dict[str, Any]:  # fmt: skip
    """Run undisturbed, then with faults; return the counts and the comparison."""
    graded, draw, began = "grader" in kinds, Random(seed), time.monotonic()
    whole = make_config(world, world / "whole", num_steps, graded, async_save, hidden)
    progress, errors = Progress.shared(), world / "errors.txt"
    code = os.waitstatus_to_exitcode(os.waitpid(launch(whole, progress, errors), 0)[1])
    if code:
        raise RuntimeError(f"[soak] undisturbed run: expected exit code 0, got {code}: {errors.read_text()}")
    memory = list(progress.memory_mib)
    progress.seconds_per_step = (time.monotonic() - began) / num_steps
    broken = replace(whole, run=replace(whole.run, dir=str(world / "broken")))
    struck: list[Struck] = []
    stride = max(1, num_steps // max(1, num_faults))
    while len(struck) < num_faults and time.monotonic() - began < seconds:
        struck.append(strike(broken, kinds[len(struck) % len(kinds)], draw, progress, errors, stride))
        report(struck[-1])
        if struck[-1].code == 0:  # the run ended before the fault
            break
    last = os.waitstatus_to_exitcode(os.waitpid(launch(broken, progress, errors), 0)[1])
    faults = [fault for fault in struck if fault.code != 0]
    difference = first_difference(world / "whole", world / "broken")
    return {
        "steps": num_steps,
        "async_save": async_save,
        "faults": len(faults),
        "unexpected": [f"{s.kind}: {s.code}: {s.message}" for s in faults if s.code != ENDS[s.kind]],
        "by_kind": dict(Counter(fault.kind for fault in faults)),
        "by_phase": dict(Counter(fault.phase for fault in faults).most_common()),
        "last_written": dict(Counter(fault.written for fault in faults if fault.written).most_common()),
        "half_checkpoints": [f"{fault.kind}: {name}" for fault in struck for name in fault.half],
        "graders_killed": progress.graders_killed,
        "said": {fault.kind: PATH.sub("", fault.message) for fault in faults if fault.code > 0},
        "last_code": last,
        "equal": last == 0 and not difference,
        "first_difference": difference,
        "rss_mib": [memory[int(share * (len(memory) - 1))] for share in (0.0, 0.1, 0.5, 1.0)],
        "seconds": round(time.monotonic() - began, 1),
    }


def show(found: dict[str, Any]) -> None:
    print(f"\n{'fault':8} {'times':>5} {'exit code':>9}  last line on stderr")
    for kind, times in found["by_kind"].items():
        print(f"{kind:8} {times:5d} {int(ENDS[kind]):9d}  {found['said'].get(kind, 'nothing')[:90]}")
    if found["graders_killed"]:
        print(f"killed grading processes: {found['graders_killed']}")
    print(f"\n{'interrupted phase':24} {'times':>5}")
    for phase, times in found["by_phase"].items():
        print(f"{phase:24} {times:5d}")
    print(f"\n{'last written file of a checkpoint':44} {'times':>5}")
    for name, times in found["last_written"].items():
        print(f"{name:44} {times:5d}")
    print(f"damaged checkpoints after a fault: {len(found['half_checkpoints'])}")
    print(
        "\nresident memory, MiB: {:.1f} first step, {:.1f}, {:.1f} half way, {:.1f}".format(*found["rss_mib"])
    )
    print(f"recovered, and bit for bit equal to the undisturbed run: {found['equal']}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["kill", "file", "save", "term", "nan"])
    parser.add_argument("--seconds", type=float, default=600.0, help="cause no fault after so many seconds")
    parser.add_argument("--async-save", action="store_true", help="write checkpoints in the background")
    parser.add_argument(
        "--hidden", type=int, default=SHAPE.hidden, help="model width; a wider model takes longer to save"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    disable_progress_bar()  # type: ignore[no-untyped-call]
    with tempfile.TemporaryDirectory() as folder:
        found = soak(
            make_world(Path(folder), given.hidden), given.steps, given.faults, given.kinds, given.seed,
            given.seconds,
            lambda struck: print(f"{struck.kind:7} {struck.code:4d} in {struck.phase}", flush=True),
            given.async_save, given.hidden,
        )  # fmt: skip
    show(found)
    command = " ".join(["python -m bench.soak", *sys.argv[1:]])
    found = {"bench": "soak", "command": command, **found, "environment": environment()}
    print(json.dumps(found))
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(0 if found["equal"] and not found["unexpected"] and not found["half_checkpoints"] else 1)


if __name__ == "__main__":
    main()
