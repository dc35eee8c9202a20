"""How the time of an RLTR step grows: with ranks, with tokens, with the model's size; replicated and sharded.

    python -m bench.bench_scaling [--rounds 3] [--steps 2] [--out FILE]

Whole steps of the rl stage on the CPU (gloo, one thread a rank), by phase: sampling, rewards (a receiver
continues the cut rollouts), update, weight sync, as metrics.jsonl has them; the first step of a run is left
out. Ranks share the rollouts of a step, they do not bring more (strong scaling). Cells take turns, so that
what disturbs the machine disturbs all. The file says how many cores there are and how loaded they were
before and after every round, and is written after each. The last line is JSON.
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
    """One way to take a step."""

    ranks: int
    width: int
    """Of the policy's hidden states; it has three layers."""
    prompts: int = PROMPTS
    shard: bool = False

    @property
    def name(self) -> str:
        return f"{self.ranks}-{self.width}-{self.prompts}-{'sharded' if self.shard else 'replicated'}"


def cells() -> list[Cell]:
    """Every size on 1, 2 and 4 ranks, both ways where there are several; the middle size with more tokens."""
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
    """One process of a cell."""
    import torch

    from fastrl.train import run_stage

    torch.set_num_threads(1)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": cell.ranks, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR="127.0.0.1")
    run_stage(config)
    Ranks.leave()


def seconds(cell: Cell, work: Path, steps: int) -> list[dict[str, float]]:
    """Of each step but the first, by phase; and its tokens."""
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
        each | {"step": sum(each.values()), "tokens": float(line["num_tokens"])}
        for each, line in zip(timed, lines, strict=True)
    ]


def row(cell: Cell, steps: list[dict[str, float]], parameters: int) -> dict[str, object]:
    spread = {
        name: {
            "median": round(statistics.median(each[name] for each in steps), 4),
            "min": round(min(each[name] for each in steps), 4),
            "max": round(max(each[name] for each in steps), 4),
        }
        for name in ("step", *PHASES)
    }
    tokens = statistics.median(each["tokens"] for each in steps)
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
    parser.add_argument("--steps", type=int, default=2, help="timed steps of a cell in each round")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    CONTEXT.set_forkserver_preload(["fastrl.train"])
    seen: dict[Cell, list[dict[str, float]]] = {cell: [] for cell in cells()}
    loads = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_data(work / "data.jsonl")
        sizes = {width: made(work / f"policy-{width}", width) for width in WIDTHS}
        write_model(work / "receiver", "llama", WIDTHS[0], VOCAB)
        for _ in range(options.rounds):
            for cell, steps in seen.items():
                steps += seconds(cell, work, options.steps)
            loads.append(os.getloadavg()[0])
            result = summary(seen, sizes, loads)
            if options.out:
                options.out.write_text(json.dumps(result, indent=1) + "\n")
    for cell, each in zip(seen, result["rows"], strict=True):
        print(f"{cell.name:24s} {each['tokens']:6.0f} tokens", each["seconds"]["step"])
    print(json.dumps(result))


def summary(
    seen: dict[Cell, list[dict[str, float]]], sizes: dict[int, int], loads: list[float]
) -> dict[str, Any]:
    return {
        "bench": "scaling", "cores": os.cpu_count(), "load": [round(load, 1) for load in loads],
        "median, least, most": "seconds of a step", "environment": environment(),
        "rows": [row(cell, steps, sizes[cell.width]) for cell, steps in seen.items()],
    }  # fmt: skip


def made(folder: Path, width: int) -> int:
    """Writes a policy; returns how many parameters it has."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(write_model(folder, "qwen3", width, VOCAB))
    return sum(parameter.numel() for parameter in model.parameters())


if __name__ == "__main__":
    main()
