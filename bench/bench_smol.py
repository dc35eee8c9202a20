"""Time the embedded engine against vLLM on a model of SmolLM2-135M's shape, bound by matrix products.

    python -m bench.bench_smol [--model DIR] [--rounds 3] [--compiled] [--out FILE]

    generate   64 requests x 64 tokens
    tree       a receiver's phase: 8 rollouts of 128 tokens, 4 cuts each, 4 continuations of 32 tokens each
    tail       64 continuations that end one by one: 1, 2, ... 64 tokens
    score      log-probs of 32 sequences of 256 tokens

No request ends early, so every provider samples the same number of tokens. vLLM has prefix caching, and its
defaults for threads and chunked prefill; it runs eagerly, or with --compiled through its compiler (about
100 s to start). Providers take turns. Without --model the weights are random, which does not change the time.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from bench.harness import cpu_ms, finish
from fastrl.engine.tree.engine import TorchEngine
from fastrl.types import Branch, PrefixTree, SamplingParams

SMOL = LlamaConfig(
    vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
    num_key_value_heads=3, head_dim=64, max_position_embeddings=2048, rope_theta=100000.0,
    tie_word_embeddings=True, eos_token_id=None, bos_token_id=None, pad_token_id=0,
)  # fmt: skip
MAX_MODEL_LEN, CACHE_GIB = 1024, 2
Trees = Sequence[PrefixTree]


def write_model(folder: Path) -> Path:
    """Write random weights of SmolLM2-135M's shape, and a tokenizer without an end token."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(SMOL).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"<{i}>": i for i in range(SMOL.vocab_size)}, unk_token="<0>"))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)
    return folder


def tree(prompt: list[int], branches: list[Branch]) -> PrefixTree:
    return PrefixTree(prompt_ids=prompt, branches=branches)


def workloads() -> dict[str, Trees]:
    g = torch.Generator().manual_seed(0)
    draw = lambda length: torch.randint(1, 40_000, (length,), generator=g).tolist()
    rollouts, prompt = [draw(128) for _ in range(8)], draw(40)
    cuts = [25, 51, 76, 102]
    return {
        "generate": [
            tree(draw(40), [Branch(token_ids=(), num_samples=8, max_new_tokens=64, seed=i)]) for i in range(8)
        ],
        "tree": [
            tree(
                prompt,
                [
                    Branch(token_ids=rollout[:cut], num_samples=4, max_new_tokens=32, seed=i)
                    for i, rollout in enumerate(rollouts)
                    for cut in cuts
                ],
            )
        ],
        "tail": [tree(prompt, [Branch(token_ids=(), max_new_tokens=1 + i, seed=i) for i in range(64)])],
    }


def num_tokens(trees: Trees) -> int:
    return sum(b.num_samples * (b.max_new_tokens or 0) for tree in trees for b in tree.branches)


class PlainVllm:
    """vLLM's class LLM, as its users start it, with all requests in one call."""

    def __init__(self, folder: Path, compiled: bool) -> None:
        from vllm import LLM
        from vllm import SamplingParams as Params
        from vllm.inputs import TokensPrompt

        self._params, self._prompt = Params, TokensPrompt
        self._llm = LLM(
            str(folder), dtype="float32", enforce_eager=not compiled, max_model_len=MAX_MODEL_LEN,
            enable_prefix_caching=True, seed=0,
        )  # fmt: skip

    def continue_prefixes(self, trees: Trees) -> Any:
        prompts, params = [], []
        for tree in trees:
            for branch in tree.branches:
                for _ in range(branch.num_samples):
                    prompts.append(self._prompt(prompt_token_ids=[*tree.prompt_ids, *branch.token_ids]))
                    params.append(self._params(max_tokens=branch.max_new_tokens, ignore_eos=True, logprobs=0))
        self._llm.reset_prefix_cache()
        return self._llm.generate(prompts, params, use_tqdm=False)

    def score(self, sequences: Sequence[list[int]]) -> Any:
        params = self._params(max_tokens=1, prompt_logprobs=0)
        self._llm.reset_prefix_cache()
        prompts = [self._prompt(prompt_token_ids=each) for each in sequences]
        return self._llm.generate(prompts, params, use_tqdm=False)


def sgemm_gflops() -> float:
    """Return the machine's rate on a large product, in 1e9 operations per second."""
    a, b = torch.randn(1536, 1536), torch.randn(1536, 1536)
    return 2 * 1536**3 / min(cpu_ms(lambda: a @ b) for _ in range(10)) / 1e6


def product_gflops(engine: TorchEngine, rows: int) -> float:
    """Return the rate over the matrix products of a decode step with this many rows."""
    products = list(engine.decoder.products())
    given = [(each, torch.randn(rows, each.parameters[0].shape[1])) for each in products]
    work = sum(2 * rows * sum(p.numel() for p in each.parameters) for each in products)

    def step() -> None:
        for product, x in given:
            product(x)

    with torch.inference_mode():
        return work / min(cpu_ms(step) for _ in range(5)) / 1e6


def measure(calls: dict[str, dict[str, Callable[[], Any]]], rounds: int) -> list[dict[str, Any]]:
    """Time every provider of every workload in turn, after one round that is not counted."""
    rows = []
    for workload, providers in calls.items():
        seconds: dict[str, list[float]] = {name: [] for name in providers}
        for number in range(rounds + 1):
            for name, call in providers.items():
                began = time.perf_counter()
                call()
                if number:
                    seconds[name].append(time.perf_counter() - began)
        for name, times in seconds.items():
            rows.append({"workload": workload, "provider": name, "seconds": times})
    return rows


def show(rows: list[dict[str, Any]], tokens: dict[str, int]) -> None:
    columns = f"{'median s':>9} {'min':>7} {'max':>7} {'tok/s':>8} {'x fastrl':>8}"
    print(f"{'workload':10} {'provider':16} {columns}")
    ours = {r["workload"]: statistics.median(r["seconds"]) for r in rows if r["provider"] == "fastrl"}
    for row in rows:
        median = statistics.median(row["seconds"])
        row["tokens"] = tokens[row["workload"]]
        row["tokens_per_s"] = row["tokens"] / median
        row["ours_is_faster_by"] = median / ours[row["workload"]]
        print(
            f"{row['workload']:10} {row['provider']:16} {median:9.2f} {min(row['seconds']):7.2f} "
            f"{max(row['seconds']):7.2f} {row['tokens_per_s']:8.0f} {row['ours_is_faster_by']:8.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--no-vllm", action="store_true")
    parser.add_argument("--only", nargs="*", default=["generate", "tree", "tail", "score"])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    os.environ |= {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": str(CACHE_GIB),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR",
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = given.model or write_model(Path(name))
        engine = TorchEngine.from_pretrained(str(folder), dtype=torch.float32, device=torch.device("cpu"))
        vllms: dict[str, PlainVllm] = {}
        if not given.no_vllm:
            name = "vLLM, compiled" if given.compiled else "vLLM, eager"
            vllms[name] = PlainVllm(folder, given.compiled)
        calls: dict[str, dict[str, Callable[[], Any]]] = {}
        tokens: dict[str, int] = {}
        for workload, trees in workloads().items():
            tokens[workload] = num_tokens(trees)
            calls[workload] = {
                "fastrl": lambda trees=trees: engine.continue_prefixes(trees, SamplingParams())
            } | {
                name: lambda trees=trees, vllm=vllm: vllm.continue_prefixes(trees)
                for name, vllm in vllms.items()
            }
        g = torch.Generator().manual_seed(1)
        sequences = torch.randint(1, 40_000, (32, 256), generator=g).tolist()
        tokens["score"] = 32 * 255
        calls["score"] = {"fastrl": lambda: engine.score(sequences)} | {
            name: lambda vllm=vllm: vllm.score(sequences) for name, vllm in vllms.items()
        }
        rows = []
        for name in given.only:  # a workload takes minutes, so show it when it ends
            found = measure({name: calls[name]}, given.rounds)
            show(found, tokens)
            rows += found
        peak = sgemm_gflops()
        rates = {rows_: product_gflops(engine, rows_) for rows_ in (1, 4, 16, 64, 128)}
        print(
            f"sgemm {peak:.0f} GFLOP/s; products of a decode step by rows: "
            + ", ".join(f"{n}: {rate:.0f} ({rate / peak:.0%})" for n, rate in rates.items())
        )
        finish("smol", [*rows, {"sgemm_gflops": peak, "product_gflops": rates}], given.out)


if __name__ == "__main__":
    main()
