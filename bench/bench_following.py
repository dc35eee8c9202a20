"""The receiver's phase with and without following, which saves decode steps where continuations agree.

    python -m bench.bench_following --policy DIR --receiver DIR --data FILE [--rounds 3] [--out FILE]

The policy writes rollouts of the first problems; each is cut at K places, and the receiver continues each cut
N times (temperature 0.7, top-p 0.95). Four ways in turn: the cuts alone without and with following, and the
cuts with the whole rollouts behind them, without and with. The last one is what the transfer reward does.
The tokens of all four are compared. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from bench.harness import finish
from fastrl.data.prompts import render_prompt
from fastrl.engine.tree.engine import TorchEngine
from fastrl.engine.tree.following import NextTokens
from fastrl.rewards.cuts import draw_tau
from fastrl.types import Branch, Completion, PrefixTree, SamplingParams

RECEIVING = SamplingParams(temperature=0.7, top_p=0.95)
Found = list[list[list[Completion]]]


def cut_trees(prompts: Sequence[list[int]], rollouts: Found, given: argparse.Namespace) -> list[PrefixTree]:
    """Return a tree a problem with K cuts of each rollout, as the transfer reward draws them."""
    trees = []
    for problem, (prompt, samples) in enumerate(zip(prompts, rollouts, strict=True)):
        branches = []
        for i, rollout in enumerate(samples):
            ids = rollout.token_ids
            for k in range(given.cuts):
                cut = int(draw_tau(0, problem, i, k) * len(ids))
                new = given.max_new_tokens - cut + given.slack
                seed = hash((problem, i, k))
                branches.append(
                    Branch(token_ids=ids[:cut], num_samples=given.samples, max_new_tokens=new, seed=seed)
                )
        trees.append(PrefixTree(prompt_ids=prompt, branches=branches))
    return trees


def with_rollouts(trees: Sequence[PrefixTree], rollouts: Found) -> list[PrefixTree]:
    return [
        replace(
            tree,
            branches=[
                *tree.branches,
                *(Branch(token_ids=r.token_ids, num_samples=0, max_new_tokens=1, seed=0) for r in samples),
            ],
        )
        for tree, samples in zip(trees, rollouts, strict=True)
    ]


def run(
    engine: TorchEngine, trees: Sequence[PrefixTree], follows: bool
) -> tuple[list[Any], dict[str, float]]:
    """Return all tokens, and seconds and counters of one call."""
    before = engine.stats()
    began = time.perf_counter()
    with nullcontext() if follows else mock.patch.object(NextTokens, "any_after", return_value=False):
        found = engine.continue_prefixes(trees, RECEIVING)
    spent = time.perf_counter() - began
    after = engine.stats()
    names = ("prefill_tokens", "generated_tokens", "agreed_tokens", "decode_tokens")
    counted = {name: getattr(after, name) - getattr(before, name) for name in names}
    tokens = [c.token_ids for tree in found for branch in tree for c in branch]
    return tokens, {"seconds": spent, **counted}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--policy", required=True)
    parser.add_argument("--receiver", required=True)
    parser.add_argument("--data", type=Path, required=True, help="JSON lines with a prompt")
    parser.add_argument("--problems", type=int, default=8)
    parser.add_argument("--rollouts", type=int, default=4)
    parser.add_argument("--cuts", type=int, default=4)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--slack", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    load = lambda path: TorchEngine.from_pretrained(path, dtype=torch.float32, device=torch.device("cpu"))
    policy, receiver = load(given.policy), load(given.receiver)
    with given.data.open(encoding="utf-8") as lines:
        questions = [json.loads(line)["prompt"] for line in islice(lines, given.problems)]
    as_messages = lambda q: [{"role": "user", "content": q}] if isinstance(q, str) else q
    prompts = [render_prompt(policy.tokenizer, as_messages(question)) for question in questions]
    sampling = SamplingParams(max_new_tokens=given.max_new_tokens)
    rollouts = policy.generate(prompts, sampling, seeds=range(len(prompts)), n=given.rollouts)
    cuts = cut_trees(prompts, rollouts, given)
    whole = with_rollouts(cuts, rollouts)
    ways = {
        "cuts": (cuts, False), "cuts, following": (cuts, True), "with rollouts": (whole, False),
        "with rollouts, following": (whole, True),
    }  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    rows: dict[str, dict[str, float]] = {}
    texts: dict[str, list[Any]] = {}
    for number in range(given.rounds + 1):
        for name, (trees, follows) in ways.items():
            texts[name], rows[name] = run(receiver, trees, follows)
            if number:
                seconds[name].append(rows[name]["seconds"])
    results = []
    for name, row in rows.items():
        same = sum(a == b for a, b in zip(texts[name], texts["cuts"], strict=True)) / len(texts[name])
        row |= {"seconds": statistics.median(seconds[name]), "same_completions": same}
        print(
            f"{name:26}",
            "  ".join(
                f"{key} {value:.3f}" if key in ("seconds", "same_completions") else f"{key} {value}"
                for key, value in row.items()
            ),
        )
        results.append({"way": name, **row})
    finish("following", results, given.out)


if __name__ == "__main__":
    main()
