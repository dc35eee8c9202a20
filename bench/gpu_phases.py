"""The phases of a training step in a twin of a GPU, and their counts, of a model of any size.

    python -m bench.gpu_phases MODEL [--rows 64] [--out FILE]

MODEL is a folder with config.json and a tokenizer; weights are not read. Prints a table, then JSON:
{phase: counts of one call}. Nothing is timed, and nothing runs on a GPU.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from bench.device_counts import Counts, DeviceCounter
from bench.gpu_twin import GPU, gpu_twin, meta_twin
from fastrl.config import TrainConfig
from fastrl.engine.sampling import draw
from fastrl.engine.tree.decode_batch import DecodeBatch
from fastrl.engine.tree.engine import TorchEngine
from fastrl.engine.tree.scheduler import Scheduler
from fastrl.ops import LossConfig, linear_grpo_loss
from fastrl.policy.attention import SDPA
from fastrl.policy.model import Policy
from fastrl.policy.optimizer import apply_gradients, make_optimizer
from fastrl.types import SamplingParams, TrainSequence

METHODS = {
    "prefill": (Scheduler, "_prefill"),
    "arrange": (DecodeBatch, "_arrange"),
    "decode_step": (DecodeBatch, "_advance"),
    "collect": (DecodeBatch, "collect_tokens"),
}
"""Phases inside `generate`: one call of each method."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of the phases."""

    rows: int = 16
    """Requests that decode together; a quarter as many prompts."""
    prompt: int = 32
    new: int = 8
    """Tokens per completion; from 17 on the engine captures a CUDA graph."""
    tokens: int = 256
    """Tokens per micro-batch of the update."""


def engine_phases(folder: str, sizes: Sizes) -> dict[str, Counts]:
    """Run the phases without gradients on fake CUDA tensors in bfloat16."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with gpu_twin() as twin:
        model = fake_model(folder, GPU, torch.bfloat16)
        with twin.phase("load"):
            engine = TorchEngine(model, tokenizer, max_batch_tokens=sizes.rows * (sizes.prompt + sizes.new))
        run_engine(engine, twin, sizes)
        run_samplers(engine.decoder.vocab_size, twin, sizes)
    return twin.phases


def run_engine(engine: TorchEngine, twin: DeviceCounter, sizes: Sizes) -> None:
    prompts = [[i + j + 1 for j in range(sizes.prompt)] for i in range(sizes.rows // 4)]
    sampling = SamplingParams(max_new_tokens=sizes.new)
    engine._end_ids = []  # every token that a fake tensor gives is the same one
    with ExitStack() as stack:
        for name, (owner, method) in METHODS.items():
            stack.enter_context(phase_of(twin, name, owner, method))
        stack.enter_context(twin.phase("generate"))
        engine.generate(prompts, sampling, seeds=range(len(prompts)), n=4)
    with twin.phase("score"):
        engine.score(prompts)
    weights = engine.decoder.model.named_parameters()
    given = [(name, torch.empty_like(weight, dtype=torch.float32)) for name, weight in weights]
    with twin.phase("load_weights"):
        engine.load_weights(given, version=1)
    with twin.phase("weight_sums"):
        engine.weight_sums()
    for level in (1, 2):
        with twin.phase(f"sleep_{level}"):
            engine.sleep(level)
        with twin.phase(f"wake_{level}"):
            engine.wake()


def run_samplers(vocab: int, twin: DeviceCounter, sizes: Sizes) -> None:
    logits = torch.empty(sizes.rows, vocab, dtype=torch.bfloat16, device=GPU)
    uniforms = torch.empty(sizes.rows, dtype=torch.float64, device=GPU)
    options: dict[str, dict[str, Any]] = {"plain": {}, "top_p": {"top_p": 0.95}, "top_k": {"top_k": 20}}
    for name, changed in options.items():
        with twin.phase(f"sample_{name}"):
            draw(logits, uniforms, SamplingParams(**changed))


def loss_phases(tokens: int, width: int, vocab: int, name: str = "loss") -> dict[str, Counts]:
    """Run linear_grpo_loss with its gradients on fake CUDA tensors, with the head in bfloat16 and float32."""
    with gpu_twin() as twin:
        hidden = torch.empty(tokens, width, dtype=torch.bfloat16, device=GPU)
        ids = torch.empty(tokens, dtype=torch.int64, device=GPU)
        logprobs = torch.empty(tokens, device=GPU)
        batch: dict[str, Tensor] = {
            "cu_seqlens": torch.empty(9, dtype=torch.int32, device=GPU),
            "advantages": torch.empty(8, device=GPU),
            "loss_mask": torch.empty(tokens, dtype=torch.bool, device=GPU),
            "old_logprobs": logprobs,
            "rollout_logprobs": logprobs,
        }
        for head, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
            weight = torch.empty(vocab, width, dtype=dtype, device=GPU)
            with twin.phase(f"{name}_{head}_head"):
                linear_grpo_loss(hidden, weight, ids, **batch, config=LossConfig(), denominator=1.0)
    return twin.phases


def update_phases(folder: str, sizes: Sizes) -> dict[str, Counts]:
    """Run the policy's body on `meta` with SDPA, as on a GPU, forward and backward; float32, no autocast."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = fake_model(folder, torch.device("meta"), torch.float32, attention=SDPA)
    policy = Policy(model.train(), tokenizer, torch.float32, SDPA)
    length = sizes.tokens // 4
    sequence = TrainSequence(list(range(1, length + 1)), [i >= length // 4 for i in range(length)])
    with meta_twin() as twin:
        with twin.phase("pack"):
            batch = policy.pack([sequence] * 4)
        with twin.phase("body_forward"):
            hidden = policy.hidden(batch)
        with twin.phase("body_backward"):
            hidden.backward(torch.empty_like(hidden))
    return twin.phases


def optimizer_phases(folder: str) -> dict[str, Counts]:
    """Clip the gradients and take an AdamW step, on fake CUDA tensors."""
    with gpu_twin() as twin:
        policy = Policy(fake_model(folder, GPU, torch.float32), None, torch.bfloat16, SDPA)
        config = TrainConfig()
        optimizer = make_optimizer(policy, config)
        for _ in range(2):  # the first makes the moments
            for parameter in policy.parameters():
                parameter.grad = torch.empty_like(parameter)
            with twin.phase("optimizer_step"):
                apply_gradients(policy, optimizer, config, step=0)
    return twin.phases


def fake_model(folder: str, device: torch.device, dtype: torch.dtype, attention: str = "eager") -> Any:
    """Return a model of the folder's config on `device`, without values."""
    config = AutoConfig.from_pretrained(folder)
    with device:
        return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)


@contextmanager
def phase_of(twin: DeviceCounter, name: str, owner: type, method: str) -> Iterator[None]:
    """Count each call of a method as a phase."""
    original = getattr(owner, method)

    def counted(*args: Any, **kwargs: Any) -> Any:
        with twin.phase(name):
            return original(*args, **kwargs)

    with patch.object(owner, method, counted):
        yield


def all_phases(folder: str, sizes: Sizes) -> dict[str, Counts]:
    """Return the counts of every phase of a model, engine first."""
    config = AutoConfig.from_pretrained(folder)
    return (
        engine_phases(folder, sizes)
        | loss_phases(sizes.tokens, config.hidden_size, config.vocab_size)
        | update_phases(folder, sizes)
        | optimizer_phases(folder)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder with config.json and a tokenizer")
    parser.add_argument("--rows", type=int, default=64, help="requests that decode together")
    parser.add_argument("--tokens", type=int, default=16384, help="tokens per micro-batch of the update")
    parser.add_argument("--out", type=Path, help="write the JSON here too")
    options = parser.parse_args()
    found = all_phases(options.model, Sizes(rows=options.rows, tokens=options.tokens))
    columns = list(Counts().as_dict())
    print(f"{'phase':<16}", *(f"{name:>16}" for name in columns))
    for name, counts in found.items():
        print(f"{name:<16}", *(f"{value:>16,}" for value in counts.as_dict().values()))
    text = as_json(found)
    print(text)
    if options.out:
        options.out.write_text(text)


def as_json(phases: dict[str, Counts]) -> str:
    """Return {phase: counts} as JSON, a phase per line."""
    lines = [f"  {json.dumps(name)}: {json.dumps(counts.as_dict())}" for name, counts in phases.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    main()
