"""Compare planned with measured memory of training: rl, rltr, sft, and rl sharded over two ranks (shard).

    python -m bench.bench_plan [--only rl rltr sft shard] [--out FILE]

The models are mostly vocabulary. Each configuration trains for two steps on the CPU in a fresh process per
rank. Measured is the process's peak resident set during training, minus its resident set after a run of the
same stage on a tiny model (python, libraries and their buffers); the larger of two ranks counts.
MALLOC_MMAP_THRESHOLD_ makes glibc return freed blocks of 64 KiB or more at once; it would otherwise keep up
to 32 MiB of each size.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast, Qwen3Config

from fastrl.config import (
    AnswerConfig,
    CheckpointConfig,
    Config,
    DataConfig,
    EngineConfig,
    ModelConfig,
    RewardConfig,
    RlConfig,
    RolloutConfig,
    RunConfig,
    SftConfig,
    TrainConfig,
    TransferConfig,
)
from fastrl.runtime.distributed import Ranks
from fastrl.tools.plan.planner import Device, Planner
from fastrl.train import run_stage

CASES = {"rl": 1, "rltr": 1, "sft": 1, "shard": 2}
"""Number of ranks per case."""
NEW_TOKENS, GROUPS, GROUP_SIZE = 95, 4, 4
PROMPT = "+".join("123456789")
CHAT = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
VOCAB, LARGE, SMALL = 32768, 256, 16


def write_model(folder: Path, family: str, width: int, vocab: int) -> str:
    """Write a random decoder with a byte tokenizer; the rest of the vocabulary only adds size."""
    sizes = {
        "vocab_size": vocab, "hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": max(8, width // 4),
        "max_position_embeddings": 512, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0,
    }  # fmt: skip
    config = Qwen3Config(**sizes, tie_word_embeddings=True) if family == "qwen3" else LlamaConfig(**sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE(vocab={token: i for i, token in enumerate(["<eos>", *letters])}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>")
    fast.chat_template = CHAT
    fast.save_pretrained(folder)
    return str(folder)


def write_data(path: Path) -> str:
    rows = [
        {
            "question": f"{i % 10}{PROMPT}",
            "answer": "1",
            "prompt": f"{i % 10}{PROMPT}",
            "completion": "7" * 146,
        }
        for i in range(32)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def configured(case: str, work: Path, width: int, vocab: int, run: str, new_tokens: int) -> Config:
    """Return a case with full micro-batches, two per rank: equal prompts, sequences of equal length."""
    shared, work = work, work / os.environ.get("RANK", "0")
    work.mkdir(exist_ok=True)
    policy = ModelConfig(path=write_model(work / f"policy-{width}", "qwen3", width, vocab))
    data = DataConfig(path=write_data(work / "data.jsonl"))
    own = RunConfig(dir=str(shared / run), log_completions_every=0, device="cpu")
    if case == "sft":
        train = TrainConfig(num_steps=2, tokens_per_microbatch=10 * (len(PROMPT) + 1 + 146 + 1))
        return SftConfig(run=own, model=policy, data=replace(data), batch_size=20, train=train)
    tokens = GROUPS // 2 * (GROUP_SIZE * new_tokens + len(PROMPT) + 1)
    config = RlConfig(
        run=own,
        model=policy,
        data=replace(data, prompt_column="question", solution_column="answer"),
        engine=EngineConfig(max_batch_tokens=4096),
        rollout=RolloutConfig(
            num_prompts=GROUPS * CASES[case], group_size=GROUP_SIZE, max_new_tokens=new_tokens
        ),
        reward=RewardConfig(functions=("random",), weights=(1.0,)),
        answer=AnswerConfig(workers=1),
        train=TrainConfig(num_steps=2, tokens_per_microbatch=tokens, shard=case == "shard"),
    )
    if case in ("rl", "shard"):
        return config
    receiver = CheckpointConfig(path=write_model(work / f"receiver-{width}", "llama", width // 2, vocab))
    transfer = TransferConfig(receiver=receiver, slack_tokens=16, top_p=1.0)
    reward = replace(config.reward, functions=("random", "transfer"), weights=(1.0, 1.0))
    return replace(config, transfer=transfer, reward=reward)


def resident(name: str) -> int:
    """Return VmRSS (the current resident set) or VmHWM (its peak since clear_peak) in bytes."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in status if line.startswith(name + ":"))


def clear_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def measure(case: str, work: Path) -> dict[str, object]:
    """Train one case in this process and return measured and planned bytes."""
    torch.manual_seed(0)
    # models are written before the ranks join; after that only rank 0 may write
    small = configured(case, work, SMALL, 512, "small", 8)
    large = configured(case, work, LARGE, VOCAB, "large", NEW_TOKENS)
    run_stage(small)
    gc.collect()
    before = resident("VmRSS")
    clear_peak()
    run_stage(large)
    measured = resident("VmHWM") - before
    planner = Planner(large, Device("cpu", "RAM", 1 << 40), CASES[case])
    planned = planner.needed()
    items = {item.name: item.num_bytes for item in planner.items()}
    return {
        "case": case, "measured_bytes": measured, "planned_bytes": planned,
        "planned_over_measured": round(planned / measured, 4), "items": items,
    }  # fmt: skip


def measured_on_ranks(case: str) -> dict[str, object]:
    """Measure a case in one process per rank and return the row of the rank with the largest peak."""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    rows = []
    with tempfile.TemporaryDirectory() as work:
        command = [sys.executable, "-m", "bench.bench_plan", "--one", case, "--work", work]
        ranks = [
            subprocess.Popen(
                command,
                env=environment | {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": str(CASES[case])},
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(CASES[case])
        ]
        for rank in ranks:
            output, _ = rank.communicate()
            if rank.returncode:
                raise SystemExit(f"[bench] {case}: a rank ended with code {rank.returncode}")
            rows.append(json.loads(output.splitlines()[-1]))
    return max(rows, key=lambda row: row["measured_bytes"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--one", choices=CASES)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.work)))
        Ranks.leave()
        return
    rows = []
    for case in options.only:
        rows.append(measured_on_ranks(case))
        planned, measured = (rows[-1][f"{name}_bytes"] / 2**20 for name in ("planned", "measured"))
        print(f"{case:5s} planned {planned:7.1f} MiB  measured {measured:7.1f} MiB  {planned / measured:.3f}")
    result = {"bench": "plan", "torch": torch.__version__, "rows": rows}
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
