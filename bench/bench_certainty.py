"""Time self-certainty and entropy against the log-probs that training needs anyway.

python -m bench.bench_certainty [--rounds 9] [--threads 1] [--out FILE]

fastrl's op gives all three in one pass over each tile of logits; log-probs only would be the same call. The
last line is JSON.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from bench.harness import compare, finish, show
from bench.inputs import head_inputs
from fastrl.ops import linear_logprob

SHAPES = ((1024, 896, 32768), (4096, 128, 327))
"""(tokens, width, vocabulary): a small model's head, and the tiny world's."""
CHUNK_ROWS = 256


def logits_only(hidden: Tensor, weight: Tensor, ids: Tensor) -> None:
    """Compute the logits chunk by chunk and drop them."""
    out = hidden.new_empty(CHUNK_ROWS, len(weight))
    for rows in hidden.split(CHUNK_ROWS):
        torch.mm(rows, weight.T, out=out[: len(rows)])


def eager_logprobs(hidden: Tensor, weight: Tensor, ids: Tensor) -> Tensor:
    logits = hidden @ weight.T
    return logits.gather(-1, ids[:, None])[:, 0] - logits.logsumexp(-1)


def eager_certainty(hidden: Tensor, weight: Tensor, ids: Tensor) -> Tensor:
    """Return self-certainty up to the constant log V."""
    logits = hidden @ weight.T
    return logits.logsumexp(-1) - logits.mean(-1)


def eager_all(hidden: Tensor, weight: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    logits = hidden @ weight.T
    total = logits.logsumexp(-1)
    entropy = total - (logits.softmax(-1) * logits).sum(-1)
    return logits.gather(-1, ids[:, None])[:, 0] - total, entropy, total - logits.mean(-1)


PROVIDERS: dict[str, Callable[[Tensor, Tensor, Tensor], object]] = {
    "torch, logits alone": logits_only,
    "fastrl, all three": linear_logprob,
    "torch, log-probs": eager_logprobs,
    "torch, self-certainty": eager_certainty,
    "torch, all three": eager_all,
}


def error(hidden: Tensor, weight: Tensor, ids: Tensor) -> float:
    """Return the largest |self-certainty - its float64 definition| of fastrl's op over 64 tokens."""
    some = slice(0, 64)
    logits = hidden[some].double() @ weight.double().T
    uniform = torch.full_like(logits, 1 / logits.shape[1])
    defined = (uniform * (uniform.log() - logits.log_softmax(-1))).sum(-1)
    got = linear_logprob(hidden[some], weight, ids[some]).self_certainty
    return float((got.double() - defined).abs().max())


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.bench_certainty")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    results: list[dict[str, object]] = []
    for tokens, width, vocab in SHAPES:
        torch.manual_seed(0)
        hidden, weight, ids = head_inputs(tokens, width, vocab, torch.float32)
        runs = {n: lambda run=run: run(hidden, weight, ids) for n, run in PROVIDERS.items()}  # noqa: B023
        rows = compare(runs, given.rounds)
        show(f"T={tokens} D={width} V={vocab} float32", rows, 2 * tokens * width * vocab / 1e9, "GFLOP")
        worst = error(hidden, weight, ids)
        print(f"  largest error of fastrl's self-certainty against float64: {worst:.2e}")
        shape = {"tokens": tokens, "width": width, "vocab": vocab}
        results += [{**shape, "provider": n, **row, "max_error": worst} for n, row in rows.items()]
    finish("certainty", results, given.out)


if __name__ == "__main__":
    main()
