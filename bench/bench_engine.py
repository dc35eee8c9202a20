"""Time the embedded engine against transformers' generate, and a tree of prefixes against single prefixes.

    python bench/bench_engine.py [--rounds 5]

Providers take turns in every round, so that a busy machine disturbs all alike. Printed are minimum and median
over the rounds in wall-clock time, and the minimum in processor time. The last line is JSON.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3Config

from fastrl.engine.tree.engine import TorchEngine
from fastrl.runtime.run import environment
from fastrl.types import Branch, PrefixTree, SamplingParams

NUM_PROMPTS, GROUP_SIZE, PROMPT_LEN, NEW = 16, 8, 14, 48
TREE = {"prompt": 64, "rollouts": 8, "cuts": 4, "samples": 4, "rollout": 250, "new": 32}
CONFIG = Qwen3Config(
    vocab_size=64, hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
    num_key_value_heads=2, head_dim=32, max_position_embeddings=1024, tie_word_embeddings=True,
    initializer_range=0.15, eos_token_id=None, bos_token_id=None, pad_token_id=0,
)  # fmt: skip


def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {f"<{i}>": i for i in range(CONFIG.vocab_size)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<0>"))
    return PreTrainedTokenizerFast(tokenizer_object=words)


def prefix_tree(tokens: Callable[[int], list[int]]) -> PrefixTree:
    rollouts = [tokens(TREE["rollout"]) for _ in range(TREE["rollouts"])]
    cuts = [TREE["rollout"] * k // (TREE["cuts"] + 1) for k in range(1, TREE["cuts"] + 1)]
    branches = [
        Branch(token_ids=r[:cut], num_samples=TREE["samples"], max_new_tokens=TREE["new"], seed=i)
        for i, r in enumerate(rollouts)
        for cut in cuts
    ]
    return PrefixTree(prompt_ids=tokens(TREE["prompt"]), branches=branches)


def providers() -> tuple[dict[str, Callable[[], Any]], TorchEngine]:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(CONFIG)).eval()
    engine_model = AutoModelForCausalLM.from_config(copy.deepcopy(CONFIG))
    engine_model.load_state_dict(model.state_dict())
    engine = TorchEngine(engine_model, tokenizer())
    draw = lambda length: torch.randint(1, CONFIG.vocab_size, (length,)).tolist()
    prompts = [draw(PROMPT_LEN) for _ in range(NUM_PROMPTS)]
    repeated = torch.tensor(prompts).repeat_interleave(GROUP_SIZE, 0)
    sampling = SamplingParams(max_new_tokens=NEW)
    tree = prefix_tree(draw)
    prefixes = [[*tree.prompt_ids, *b.token_ids] for b in tree.branches]
    short = SamplingParams(max_new_tokens=TREE["new"])
    seeds = list(range(len(prefixes)))

    def flat() -> Any:
        samples = [(p, s) for p, s in zip(prefixes, seeds, strict=True) for _ in range(TREE["samples"])]
        return engine.generate([p for p, _ in samples], short, seeds=[s for _, s in samples])

    options = {"do_sample": True, "top_k": 0, "max_new_tokens": NEW, "min_new_tokens": NEW}
    return {
        "generate / fastrl": lambda: engine.generate(
            prompts, sampling, seeds=range(NUM_PROMPTS), n=GROUP_SIZE
        ),
        "generate / transformers": lambda: model.generate(
            repeated, attention_mask=torch.ones_like(repeated), **options
        ),
        "prefixes / tree": lambda: engine.continue_prefixes([tree], short),
        "prefixes / shared by samples": lambda: engine.generate(
            prefixes, short, seeds=seeds, n=TREE["samples"]
        ),
        "prefixes / one by one": flat,
    }, engine


def measure(rounds: int) -> dict[str, dict[str, float]]:
    calls, engine = providers()
    wall: dict[str, list[float]] = {name: [] for name in calls}
    busy: dict[str, list[float]] = {name: [] for name in calls}
    prefilled: dict[str, int] = {}
    for warm in [True] + [False] * rounds:
        for name, call in calls.items():
            before = engine.stats().prefill_tokens
            began, began_busy = time.perf_counter(), time.process_time()
            call()
            if not warm:
                wall[name].append((time.perf_counter() - began) * 1e3)
                busy[name].append((time.process_time() - began_busy) * 1e3)
            prefilled[name] = engine.stats().prefill_tokens - before
    return {
        name: {
            "min_ms": min(wall[name]),
            "median_ms": statistics.median(wall[name]),
            "cpu_min_ms": min(busy[name]),
            "prefill_tokens": prefilled[name],
        }
        for name in calls
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    results = measure(rounds)
    parameters = sum(p.numel() for p in AutoModelForCausalLM.from_config(CONFIG).parameters())
    print(
        f"{parameters} parameters, fp32, {torch.get_num_threads()} threads, torch {torch.__version__}; "
        f"generate: {NUM_PROMPTS} prompts x {GROUP_SIZE} x {NEW} tokens; prefixes: {TREE}"
    )
    print(f"{'':30} {'min ms':>9} {'median ms':>10} {'cpu ms':>9} {'prefill tokens':>15}")
    for name, r in results.items():
        times = f"{r['min_ms']:9.1f} {r['median_ms']:10.1f} {r['cpu_min_ms']:9.1f}"
        print(f"{name:30} {times} {r['prefill_tokens']:15}")
    print(json.dumps({"rounds": rounds, "environment": environment(), "results": results}))


if __name__ == "__main__":
    main()
