"""linear_grpo_loss, forward and backward, with and without idle rows.

C++ and chunked torch beside the dense loss (eager, compiled) and TRL's chunked log-probs under the same loss.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bench.batches import head_inputs, packed_batch
from bench.bench_linear_logprob import dense_logprobs
from bench.harness import arguments, compare, finish, show
from fastrl.ops import LossConfig, grpo_loss, linear_grpo_loss

CONFIG = LossConfig(loss_type="dapo")
SHAPES = [
    (512, 128, 4096, torch.float32),
    (256, 896, 151936, torch.float32),
    (256, 896, 151936, torch.bfloat16),
]


def providers(
    hidden: Tensor, weight: Tensor, ids: Tensor, batch: dict[str, Tensor]
) -> dict[str, Callable[[], object]]:
    def differentiate(loss: Tensor) -> None:
        torch.autograd.grad(loss, (hidden, weight))

    def ours(backend: str) -> Callable[[], object]:
        return lambda: differentiate(
            linear_grpo_loss(
                hidden, weight, ids, **batch, config=CONFIG, denominator=100.0, backend=backend
            ).loss
        )

    def loss_of(logprobs: Tensor) -> Tensor:
        return grpo_loss(logprobs, **batch, config=CONFIG, denominator=100.0, backend="reference").loss

    compiled = torch.compile(dense_logprobs)
    found = {name: ours(name) for name in ("cpp", "torch")}
    found["dense"] = lambda: differentiate(loss_of(dense_logprobs(hidden, weight, ids)))
    found["dense, compiled"] = lambda: differentiate(loss_of(compiled(hidden, weight, ids)))
    try:
        from trl.kernels.chunked_logprob import ChunkedLogProbFunction
    except ImportError:
        print("trl is not installed: not compared")
        return found

    def trl() -> None:
        # as its trainer does: masked rows are left out, entropy is measured
        mask = batch["loss_mask"]
        kept = ChunkedLogProbFunction.apply(
            hidden[mask], weight, None, ids[mask], 1.0, 32768, None, 1.0, ("entropy",)
        )[0]
        differentiate(loss_of(torch.zeros(len(ids)).masked_scatter(mask, kept)))

    return found | {"trl 1.16 chunked": trl}


def main() -> None:
    given = arguments("linear_grpo_loss")
    results: list[dict[str, object]] = []
    for num_tokens, width, vocab, dtype in SHAPES[:1] if given.small else SHAPES:
        for idle in (0.0, 0.45):
            torch.manual_seed(0)
            batch = packed_batch(num_tokens, 4, idle)
            rows = compare(providers(*head_inputs(num_tokens, width, vocab, dtype), batch), given.rounds)
            shape = f"T={num_tokens} D={width} V={vocab} {dtype}, {idle:.0%} idle"
            show(shape, rows, 6 * num_tokens * width * vocab / 1e9, "GFLOP")
            results += [{"shape": shape, "provider": name, **row} for name, row in rows.items()]
    finish("linear_grpo_loss", results)


if __name__ == "__main__":
    main()
