"""Time the receiver's phase (G rollouts cut K times, each cut continued N times), done in several ways.

    python -m bench.bench_receiver [--prompts 2] [--rounds 3] [--grow cuts samples rollout]

    tree        one tree per prompt: each distinct prefix is prefilled once, shared parts of the KV cache
                are read once per decode step
    vllm rules  the same prefill, but every sequence reads its own context (flatters vLLM, which computes up
                to a block more per request)
    fork        each cut is prefilled separately; its continuations share it
    flat        each continuation is prefilled separately
    vLLM        vLLM itself, if installed: prefix caching, all requests at once in depth-first order

All ways use the same model, prefixes and lengths (no end token) and take turns in every round. The last line
is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3Config

from bench.harness import finish
from fastrl.engine.protocol import Engine
from fastrl.engine.tree.decode_batch import DecodeBatch
from fastrl.engine.tree.engine import TorchEngine
from fastrl.ops import DecodePlan
from fastrl.types import Branch, PrefixTree, SamplingParams

GROWTH = {"cuts": (1, 2, 4, 8), "samples": (1, 4, 16), "rollout": (60, 250, 1000)}
GEOMETRIES: dict[str, dict[str, int]] = {
    # layers, width, MLP, heads, key-value heads, their width, vocabulary
    "world": dict(zip("LDMHGKV", (4, 128, 384, 4, 2, 32, 512), strict=True)),
    "tiny": dict(zip("LDMHGKV", (4, 256, 768, 4, 2, 64, 512), strict=True)),
    "0.5b": dict(zip("LDMHGKV", (24, 896, 4864, 14, 2, 64, 151936), strict=True)),
    "1.5b": dict(zip("LDMHGKV", (28, 1536, 8960, 12, 2, 128, 151936), strict=True)),
}
MAX_BATCH_TOKENS = 1 << 18
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPE = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of one receiver phase."""

    prompts: int = 2
    prompt: int = 64
    rollouts: int = 8
    cuts: int = 4
    samples: int = 4
    rollout: int = 250
    new: int = 64

    def trees(self) -> list[PrefixTree]:
        g = torch.Generator().manual_seed(0)
        draw = lambda length: torch.randint(1, 512, (length,), generator=g).tolist()
        ends = [self.rollout * k // (self.cuts + 1) for k in range(1, self.cuts + 1)]
        return [
            PrefixTree(
                prompt_ids=draw(self.prompt),
                branches=[
                    Branch(token_ids=own[:end], num_samples=self.samples, max_new_tokens=self.new, seed=i)
                    for i, own in enumerate(draw(self.rollout) for _ in range(self.rollouts))
                    for end in ends
                ],
            )
            for _ in range(self.prompts)
        ]


def write_model(folder: Path, geometry: str) -> None:
    """Write a random model without an end token, so that every continuation reaches its length limit."""
    size = GEOMETRIES[geometry]
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=size["V"], hidden_size=size["D"], intermediate_size=size["M"], num_hidden_layers=size["L"],
        num_attention_heads=size["H"], num_key_value_heads=size["G"], head_dim=size["K"],
        max_position_embeddings=8192, tie_word_embeddings=True, eos_token_id=None, bos_token_id=None,
        pad_token_id=0,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config, dtype=DTYPE).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"<{i}>": i for i in range(size["V"])}, unk_token="<0>"))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)


@contextlib.contextmanager
def every_row_reads_its_own() -> Iterator[None]:
    """Decode without sharing: read each segment once per sequence below it."""
    shared = DecodeBatch._make_plan

    def flat(batch: DecodeBatch) -> DecodePlan:
        plan = shared(batch)
        rows = plan.segments[:, 3] - plan.segments[:, 2]
        segments = np.repeat(plan.segments, rows, axis=0)
        place = np.arange(len(segments)) - np.repeat(np.cumsum(rows) - rows, rows)
        segments[:, 2] += place
        segments[:, 3] = segments[:, 2] + 1
        return DecodePlan.make(
            segments,
            np.repeat(plan.positions, rows),
            plan.prefix_lengths,
            plan.block_table,
            block_size=plan.block_size,
        )

    DecodeBatch._make_plan = flat
    try:
        yield
    finally:
        DecodeBatch._make_plan = shared


def ways(engine: Engine, trees: Sequence[PrefixTree]) -> dict[str, Callable[[], Any]]:
    sampling = SamplingParams()
    forks = [
        PrefixTree(prompt_ids=[*tree.prompt_ids, *b.token_ids], branches=[replace(b, token_ids=())])
        for tree in trees
        for b in tree.branches
    ]
    flat = [
        replace(fork, branches=[replace(fork.branches[0], num_samples=1, seed=j)])
        for fork in forks
        for j in range(fork.branches[0].num_samples)
    ]

    def vllm_rules() -> None:
        with every_row_reads_its_own():
            engine.continue_prefixes(trees, sampling)

    return {
        "tree": lambda: engine.continue_prefixes(trees, sampling),
        "vllm rules": vllm_rules,
        "fork": lambda: engine.continue_prefixes(forks, sampling),
        "flat": lambda: engine.continue_prefixes(flat, sampling),
    }


def vllm_engine(folder: Path) -> Engine | None:
    if importlib.util.find_spec("vllm") is None:
        return None
    from fastrl.engine.vllm.engine import VllmEngine

    return VllmEngine(str(folder), dtype=DTYPE, device=DEVICE, max_batch_tokens=MAX_BATCH_TOKENS)


def table(shape: Shape, engine: Engine, vllm: Engine | None, rounds: int) -> list[dict[str, Any]]:
    trees = shape.trees()
    runs = {name: (engine, run) for name, run in ways(engine, trees).items()}
    if vllm is not None:
        runs["vLLM"] = (vllm, lambda: vllm.continue_prefixes(trees, SamplingParams()))
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    counted: dict[str, dict[str, float]] = {}
    for number in range(rounds + 1):
        for name, (used, run) in runs.items():
            before = asdict(used.stats())
            began = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - began)
            counted[name] = {field: value - before[field] for field, value in asdict(used.stats()).items()}
    print(
        f"\n{shape}\n{'':12} {'median ms':>10} {'min':>8} {'max':>8} {'x tree':>7} {'prefilled':>10} "
        f"{'KV read':>12}"
    )
    rows = []
    base = statistics.median(seconds["tree"])
    for name, times in seconds.items():
        median = statistics.median(times)
        ratio = statistics.median(t / own for t, own in zip(times, seconds["tree"], strict=True))
        read = counted[name].get("kv_tokens_read", 0)
        print(
            f"{name:12} {median * 1e3:10.0f} {min(times) * 1e3:8.0f} {max(times) * 1e3:8.0f} {ratio:7.2f} "
            f"{counted[name]['prefill_tokens']:10.0f} {read or float('nan'):12.0f}"
        )
        rows.append(
            {"shape": asdict(shape), "way": name, "seconds": times, "ratio": median / base, **counted[name]}
        )
    return rows


def main() -> None:
    on_gpu = DEVICE.type == "cuda"
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--geometry", choices=list(GEOMETRIES), default="0.5b" if on_gpu else "tiny")
    parser.add_argument("--prompts", type=int, default=4 if on_gpu else 2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--grow", nargs="*", choices=list(GROWTH), default=[], help="sizes to vary")
    parser.add_argument("--no-vllm", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    first = Shape(prompts=given.prompts)
    if on_gpu:
        first = replace(first, prompt=512, rollout=2048, new=512)
    shapes = [first] + [replace(first, **{name: value}) for name in given.grow for value in GROWTH[name]]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder, given.geometry)
        vllm = None if given.no_vllm else vllm_engine(folder)
        engine = TorchEngine.from_pretrained(
            str(folder), dtype=DTYPE, device=DEVICE, max_batch_tokens=MAX_BATCH_TOKENS
        )
        results = [row for shape in shapes for row in table(shape, engine, vllm, given.rounds)]
    finish("receiver", [{"geometry": given.geometry, **row} for row in results], given.out)


if __name__ == "__main__":
    main()
