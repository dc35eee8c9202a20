"""grpo_loss on log-probs, forward and backward: C++ against the reference, eager and compiled."""

from __future__ import annotations

import torch

from bench.batches import packed_batch
from bench.harness import arguments, compare, finish, show
from fastrl.ops import LossConfig, grpo_loss


def main() -> None:
    given = arguments("grpo_loss")
    config = LossConfig(loss_type="grpo", kl_coef=0.04)
    results: list[dict[str, object]] = []
    for num_tokens in (16384,) if given.small else (16384, 262144):
        batch = packed_batch(num_tokens, 8, idle=0.2)
        logprobs = (-torch.rand(num_tokens)).requires_grad_()
        others = {
            name: -torch.rand(num_tokens) for name in ("old_logprobs", "ref_logprobs", "rollout_logprobs")
        }

        def run(op, backend, logprobs=logprobs, batch=batch, others=others):
            logprobs.grad = None
            out = op(logprobs, **batch, **others, config=config, denominator=1e4, backend=backend)
            out.loss.backward()

        compiled = torch.compile(grpo_loss)
        providers = {
            "cpp": lambda run=run: run(grpo_loss, "cpp"),
            "reference": lambda run=run: run(grpo_loss, "reference"),
            "reference, compiled": lambda run=run, compiled=compiled: run(compiled, "reference"),
        }
        rows = compare(providers, given.rounds)
        show(f"T={num_tokens}", rows, num_tokens * 4 * 8 / 1e9, "GB")
        results += [{"tokens": num_tokens, "provider": name, **row} for name, row in rows.items()]
    finish("grpo_loss", results)


if __name__ == "__main__":
    main()
