"""linear_logprob, forward and backward.

C++, chunked torch and the reference beside dense log-probs (eager, compiled) and TRL's chunked function.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bench.batches import head_inputs
from bench.harness import arguments, compare, finish, show
from fastrl.ops import linear_logprob

SHAPES = [
    (512, 128, 4096, torch.float32),
    (256, 896, 151936, torch.float32),
    (256, 896, 151936, torch.bfloat16),
]


def providers(hidden: Tensor, weight: Tensor, ids: Tensor) -> dict[str, Callable[[], object]]:
    def differentiate(logprobs: Tensor) -> None:
        torch.autograd.grad(logprobs.sum(), (hidden, weight))

    def ours(backend: str) -> Callable[[], object]:
        return lambda: differentiate(linear_logprob(hidden, weight, ids, backend=backend).logprobs)

    compiled = torch.compile(dense_logprobs)
    found = {name: ours(name) for name in ("cpp", "torch", "reference")}
    found["dense"] = lambda: differentiate(dense_logprobs(hidden, weight, ids))
    found["dense, compiled"] = lambda: differentiate(compiled(hidden, weight, ids))
    try:
        from trl.kernels.chunked_logprob import ChunkedLogProbFunction
    except ImportError:
        print("trl is not installed: not compared")
    else:
        found["trl 1.16 chunked"] = lambda: differentiate(
            ChunkedLogProbFunction.apply(hidden, weight, None, ids, 1.0, 32768, None, 1.0, ("entropy",))[0]
        )
    return found


def dense_logprobs(hidden: Tensor, weight: Tensor, ids: Tensor) -> Tensor:
    """What a plain training script does: logits in hidden's precision, log_softmax in float32."""
    logits = (hidden @ weight.T).float()
    return torch.log_softmax(logits, -1).gather(-1, ids[:, None])[:, 0]


def main() -> None:
    given = arguments("linear_logprob")
    results: list[dict[str, object]] = []
    for num_tokens, width, vocab, dtype in SHAPES[:1] if given.small else SHAPES:
        torch.manual_seed(0)
        rows = compare(providers(*head_inputs(num_tokens, width, vocab, dtype)), given.rounds)
        shape = f"T={num_tokens} D={width} V={vocab} {dtype}"
        show(shape, rows, 6 * num_tokens * width * vocab / 1e9, "GFLOP")
        results += [{"shape": shape, "provider": name, **row} for name, row in rows.items()]
    finish("linear_logprob", results)


if __name__ == "__main__":
    main()
