"""Time RLTR steps by ranks, tokens and model size, replicated and sharded.

    python -m bench.bench_scaling [--rounds 3] [--steps 2] [--out FILE]

Measures whole steps of the rl stage on the CPU (gloo, one thread per rank) by the phases of metrics.jsonl:
sampling, rewards (a receiver continues the cut rollouts), update, weight sync. The first step of a run is
left out. Ranks share a fixed number of rollouts (strong scaling). Cells take turns, so that a busy machine
disturbs all alike. The file is rewritten after each round; it states the number of cores and the load before
and after every round. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import socket
import statistics
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.bench_plan import write_data, write_model
from fastrl.config import (
    AnswerConfig,
    CheckpointConfig,
    DataConfig,
    EngineConfig,
    ModelConfig,
    RewardConfig,
    RlConfig,
    RolloutConfig,
    RunConfig,
    TrainConfig,
    TransferConfig,
)
from fastrl.runtime.distributed import Ranks
from fastrl.runtime.run import environment, read_metrics

PHASES = ("rollout", "reward", "update", "weight_sync")
WIDTHS, PROMPTS, GROUP_SIZE, NEW_TOKENS, VOCAB = (64, 128, 256), 8, 4, 32, 512
CONTEXT = multiprocessing.get_context("forkserver")


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination of ranks, sizes and sharding."""

    ranks: int
    width: int
    """Width of the policy's hidden states; the policy has three layers."""
    prompts: int = PROMPTS
    shard: bool = False

    @property
    def name(self) -> str:
        return f"{self.ranks}-{self.width}-{self.prompts}-{'sharded' if self.shard else 'replicated'}"


def cells() -> list[Cell]:
    """Return each size on 1, 2 and 4 ranks (on several also sharded), and one size with more tokens."""
    found = [Cell(1, width) for width in WIDTHS]
    found += [Cell(n, width, shard=shard) for n in (2, 4) for width in WIDTHS for shard in (False, True)]
    more = [Cell(n, WIDTHS[1], PROMPTS * times) for n in (1, 2) for times in (2, 4)]
    return found + more


def configured(cell: Cell, work: Path, folder: Path, steps: int) -> RlConfig:
    rollout = RolloutConfig(num_prompts=cell.prompts, group_size=GROUP_SIZE, max_new_tokens=NEW_TOKENS)
    return RlConfig(
        run=RunConfig(dir=str(folder), save_every=0, log_completions_every=0, device="cpu"),
        model=ModelConfig(path=str(work / f"policy-{cell.width}")),
        data=DataConfig(path=str(work / "data.jsonl"), prompt_column="question", solution_column="answer"),
        engine=EngineConfig(max_batch_tokens=8192),
        rollout=rollout,
        reward=RewardConfig(functions=("random", "transfer"), weights=(1.0, 1.0)),
        answer=AnswerConfig(workers=1),
        transfer=TransferConfig(
            receiver=CheckpointConfig(path=str(work / "receiver")), slack_tokens=16, top_p=1.0
        ),
        train=TrainConfig(num_steps=1 + steps, tokens_per_microbatch=2048, shard=cell.shard),
    )


def run_rank(rank: int, cell: Cell, port: int, config: RlConfig) -> None:
    """Train as one rank of a cell."""
    import torch

    from fastrl.train import run_stage

    torch.set_num_threads(1)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": cell.ranks, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR="127.0.0.1")
    run_stage(config)
    Ranks.leave()


def seconds(cell: Cell, work: Path, steps: int) -> list[dict[str, float]]:
    """Train a cell and return seconds by phase and tokens of each step but the first."""
    with tempfile.TemporaryDirectory(dir=work) as folder:
        config = configured(cell, work, Path(folder) / "run", steps)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
        processes = [
            CONTEXT.Process(target=run_rank, args=(rank, cell, port, config)) for rank in range(cell.ranks)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            raise SystemExit(f"[bench] {cell.name}: a rank ended with {[p.exitcode for p in processes]}")
        lines = [line for line in read_metrics(Path(folder) / "run/metrics.jsonl") if line["step"] > 1]
    timed = [{phase: float(line[f"time/{phase}_s"]) for phase in PHASES} for line in lines]
    return [
        phases | {"step": sum(phases.values()), "tokens": float(line["num_tokens"])}
        for phases, line in zip(timed, lines, strict=True)
    ]


def row(cell: Cell, steps: list[dict[str, float]], parameters: int) -> dict[str, object]:
    spread = {
        name: {
            "median": round(statistics.median(step[name] for step in steps), 4),
            "min": round(min(step[name] for step in steps), 4),
            "max": round(max(step[name] for step in steps), 4),
        }
        for name in ("step", *PHASES)
    }
    tokens = statistics.median(step["tokens"] for step in steps)
    return {
        **asdict(cell),
        "parameters": parameters,
        "tokens": tokens,
        "steps": len(steps),
        "seconds": spread,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="timed steps per cell and round")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    CONTEXT.set_forkserver_preload(["fastrl.train"])
    seen: dict[Cell, list[dict[str, float]]] = {cell: [] for cell in cells()}
    loads = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_data(work / "data.jsonl")
        sizes = {width: write_policy(work / f"policy-{width}", width) for width in WIDTHS}
        write_model(work / "receiver", "llama", WIDTHS[0], VOCAB)
        for _ in range(options.rounds):
            for cell, steps in seen.items():
                steps += seconds(cell, work, options.steps)
            loads.append(os.getloadavg()[0])
            result = summary(seen, sizes, loads)
            if options.out:
                options.out.write_text(json.dumps(result, indent=1) + "\n")
    for cell, measured in zip(seen, result["rows"], strict=True):
        print(f"{cell.name:24s} {measured['tokens']:6.0f} tokens", measured["seconds"]["step"])
    print(json.dumps(result))


def summary(
    seen: dict[Cell, list[dict[str, float]]], sizes: dict[int, int], loads: list[float]
) -> dict[str, Any]:
    return {
        "bench": "scaling", "cores": os.cpu_count(), "load": [round(load, 1) for load in loads],
        "median, least, most": "seconds of a step", "environment": environment(),
        "rows": [row(cell, steps, sizes[cell.width]) for cell, steps in seen.items()],
    }  # fmt: skip


def write_policy(folder: Path, width: int) -> int:
    """Write a policy and return its number of parameters."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(write_model(folder, "qwen3", width, VOCAB))
    return sum(parameter.numel() for parameter in model.parameters())


if __name__ == "__main__":
    main()
