"""Time sample_tokens, one token per row: C++ against PyTorch and against transformers' filters.

    python -m bench.bench_sample_tokens [--rounds 5] [--threads 2]

transformers draws with torch.multinomial from the filtered softmax and returns no log-prob; fastrl's op does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import TopKLogitsWarper, TopPLogitsWarper

from bench.harness import arguments, compare, finish, show
from fastrl.ops import sample_tokens

OPTIONS: tuple[dict[str, Any], ...] = ({}, {"top_k": 50}, {"top_p": 0.95}, {"top_k": 50, "top_p": 0.95})


def by_transformers(logits: torch.Tensor, top_k: int = 0, top_p: float = 1.0) -> torch.Tensor:
    ids = torch.zeros(1, 1, dtype=torch.int64)
    if top_k:
        logits = TopKLogitsWarper(top_k)(ids, logits)
    if top_p < 1:
        logits = TopPLogitsWarper(top_p)(ids, logits)
    return torch.multinomial(logits.softmax(-1), 1)


def providers(rows: int, vocab: int, options: dict[str, Any]) -> dict[str, Callable[[], object]]:
    # as peaked as a model's: most of the mass in tens of tokens
    logits = torch.randn(rows, vocab) * 3
    u = torch.rand(rows, dtype=torch.float64)
    return {
        "cpp": lambda: sample_tokens(logits, u, backend="cpp", **options),
        "torch": lambda: sample_tokens(logits, u, backend="torch", **options),
        "transformers": lambda: by_transformers(logits, **options),
    }


def main() -> None:
    given = arguments("sample_tokens")
    results: list[dict[str, object]] = []
    for rows, vocab in (
        ((16, 49152),) if given.small else ((1, 49152), (16, 49152), (64, 49152), (64, 151936))
    ):
        for options in OPTIONS:
            times = compare(providers(rows, vocab, options), given.rounds)
            show(f"{rows} x {vocab}, {options or 'all tokens'}", times, rows * vocab * 4 / 1e9, "GB")
            shape = {"rows": rows, "vocab": vocab, **options}
            results += [{**shape, "provider": name, **row} for name, row in times.items()]
    finish("sample_tokens", results, given.out)


if __name__ == "__main__":
    main()
