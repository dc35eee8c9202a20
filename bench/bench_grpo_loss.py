"""Time grpo_loss on log-probs, forward and backward, against its reference, eager and compiled."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from bench.competitors import add_wheels
from bench.gates import relative
from bench.harness import arguments, compare, finish
from bench.inputs import VARIANTS, packed_batch
from bench.launches import launches
from bench.providers import backends
from bench.sidebyside import Row, attempt, device_name, flags, show
from fastrl.ops import LossConfig, LossOutput, grpo_loss

OP = "grpo_loss"
TOKENS = {"cuda": (16384, 131072, 1048576), "cpu": (16384, 262144)}
NEEDED = ("old_logprobs", "ref_logprobs", "rollout_logprobs")


def inputs(tokens: int, mask: str, device: str) -> tuple[Tensor, dict[str, Tensor]]:
    torch.manual_seed(0)
    logprobs = -torch.rand(tokens, device=device)
    others = {name: logprobs + 0.05 * torch.randn_like(logprobs) for name in NEEDED}
    return logprobs.requires_grad_(), packed_batch(tokens, 8, mask, device) | others


def gradient(
    function: Callable[..., LossOutput],
    backend: str,
    logprobs: Tensor,
    batch: dict[str, Tensor],
    config: LossConfig,
) -> Tensor:
    out = function(logprobs, **batch, config=config, denominator=1e4, backend=backend)
    return torch.autograd.grad(out.loss, logprobs)[0]


def elementwise(tokens: int, mask: str, variant: str, given: argparse.Namespace, device: str) -> list[Row]:
    """Compare all providers of one loss on [tokens] log-probs."""
    logprobs, batch = inputs(tokens, mask, device)
    run = partial(gradient, logprobs=logprobs, batch=batch, config=VARIANTS[variant].config)
    title = f"T={tokens} {mask} {variant}, forward and backward"
    found = backends(OP, device, torch.float32) | {"reference": None}
    names: dict[str, tuple[Callable[..., LossOutput], str, str | None]] = {
        f"fastrl {name}": (grpo_loss, name, reason) for name, reason in found.items()
    }
    names["reference, compiled"] = (torch.compile(grpo_loss), "reference", None)
    exact = {k: v.double() if v.is_floating_point() else v for k, v in batch.items()}
    truth = gradient(
        grpo_loss, "reference", logprobs.detach().double().requires_grad_(), exact, VARIANTS[variant].config
    )
    rows: dict[str, Row] = {
        name: {"provider": name, "version": "", "reason": reason, "spec": {"shape": title}}
        for name, (_, _, reason) in names.items()
    }
    runs: dict[str, Callable[[], Tensor]] = {}
    for name, (function, backend, reason) in names.items():
        call = partial(run, function, backend)
        if reason is None and attempt(rows[name], call):
            runs[name] = call
            error = relative(call(), truth)
            rows[name]["gates"] = {"dx_rel": error, "failed": [] if error <= 1e-5 else ["dx_rel"]}
    for name, times in compare(runs, given.rounds, device, 9 if device == "cuda" else 1).items():
        rows[name] |= times | {"launches": launches(runs[name], device)}
    show(title, list(rows.values()))
    return list(rows.values())


def main() -> None:
    given = arguments(OP, flags)
    device = device_name()
    if given.wheels is not None:
        add_wheels(given.wheels)
    results: list[Row] = []
    for tokens in TOKENS[device][:1] if given.small else TOKENS[device]:
        for variant in given.variant:
            for mask in given.mask:
                results += elementwise(tokens, mask, variant, given, device)
    finish(OP, results, given.out)


if __name__ == "__main__":
    main()
