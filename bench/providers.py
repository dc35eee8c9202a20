"""Providers: fastrl's implementations and the competitors as named functions of a case."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.competitors import HEAD, Competitor
from bench.inputs import Case
from fastrl.ops import grpo_loss, linear_grpo_loss, linear_logprob

FASTEST = ("cpp", "triton")
"""Backends that are also measured with their options."""
OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "linear_grpo_loss": {
        "": {},
        ", recompute": {"recompute": True},
        ", batch invariant": {"batch_invariant": True},
        ", skip 1 %": {"skip_share": 0.01},
    },
    "linear_logprob": {"": {}, ", batch invariant": {"batch_invariant": True}},
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a provider on a case; the loss is differentiable in hidden and weight."""

    loss: Tensor
    logprobs: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """Named function of a case; with a `reason`, it can't run and is not called."""

    name: str
    run: Callable[[Case], Outcome]
    reason: str | None = None
    version: str = ""
    compiled: bool = False
    tf32: bool = False
    same_loss: bool = True


def backends(op: str, device: str, dtype: torch.dtype) -> dict[str, str | None]:
    """Return fastrl's implementations of an op, except the reference, with the reason if one can't run."""
    module = importlib.import_module(f"fastrl.kernels.{op}")
    return {
        kernel.name: kernel.unusable(torch.device(device), dtype)
        for kernel in module.IMPLEMENTATIONS
        if kernel.name != "reference"
    }


def head_providers(
    op: str, device: str, dtype: torch.dtype, wanted: Callable[[str], bool] = lambda _: True
) -> Mapping[str, Provider]:
    """Return providers of linear_grpo_loss or linear_logprob by name; unwanted ones are not imported."""
    ours = {"linear_grpo_loss": our_loss, "linear_logprob": our_logprobs}[op]
    found = []
    for name, reason in backends(op, device, dtype).items():
        for option, settings in OPTIONS[op].items() if name in FASTEST else {"": {}}.items():
            label = f"fastrl {name}{option}"
            run = partial(ours, name, **settings)
            if wanted(label):
                found.append(Provider(name=label, run=run, reason=reason, same_loss="skip" not in option))
    found += [theirs(op, competitor, device) for competitor in HEAD if wanted(competitor.name)]
    return {provider.name: provider for provider in found}


def our_loss(backend: str, case: Case, **settings: Any) -> Outcome:
    out = linear_grpo_loss(
        case.hidden,
        case.weight,
        case.ids,
        **case.batch,
        config=case.config,
        denominator=case.denominator,
        temperature=case.temperature,
        backend=backend,
        **settings,
    )
    return Outcome(out.loss, out.logprobs)


def our_logprobs(backend: str, case: Case, **settings: Any) -> Outcome:
    logprobs = linear_logprob(
        case.hidden, case.weight, case.ids, temperature=case.temperature, backend=backend, **settings
    ).logprobs
    return Outcome(logprobs.sum(), logprobs)


def theirs(op: str, competitor: Competitor, device: str) -> Provider:
    reason = competitor.reason(device)
    if op == "linear_logprob" and competitor.whole_loss:
        reason = "gives a loss, not log-probs"
    run = their_loss if op == "linear_grpo_loss" else their_logprobs
    return Provider(
        name=competitor.name,
        run=partial(run, competitor),
        reason=reason,
        version=competitor.version(),
        compiled=competitor.compiled,
        tf32=competitor.tf32,
        same_loss=competitor.same_loss,
    )


def their_loss(competitor: Competitor, case: Case) -> Outcome:
    function = competitor.function()
    if competitor.whole_loss:
        return Outcome(function(case))
    logprobs = competitor_logprobs(competitor, case)
    loss = grpo_loss(
        logprobs, **case.batch, config=case.config, denominator=case.denominator, backend="reference"
    ).loss
    return Outcome(loss, logprobs)


def competitor_logprobs(competitor: Competitor, case: Case) -> Tensor:
    """Return log-probs [T]; 0 at masked tokens if the competitor compacts."""
    mask, function = case.batch["loss_mask"], competitor.function()
    if not competitor.compacts:
        return function(case.hidden, case.weight, case.ids, case.temperature)[0]
    kept = function(case.hidden[mask], case.weight, case.ids[mask], case.temperature)[0]
    return torch.zeros(mask.shape, device=mask.device).masked_scatter(mask, kept)


def their_logprobs(competitor: Competitor, case: Case) -> Outcome:
    logprobs = competitor.function()(case.hidden, case.weight, case.ids, case.temperature)[0]
    return Outcome(logprobs.sum(), logprobs)


def gradients(provider: Provider, case: Case) -> tuple[Outcome, tuple[Tensor, Tensor]]:
    """Make one training call: forward and backward."""
    with tf32(provider.tf32):
        outcome = provider.run(case)
        hidden, weight = torch.autograd.grad(outcome.loss, (case.hidden, case.weight))
    return outcome, (hidden, weight)


@torch.no_grad()
def scores(provider: Provider, case: Case) -> Outcome:
    """Make one scoring call, without gradients."""
    with tf32(provider.tf32):
        return provider.run(case)


@contextmanager
def tf32(on: bool) -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = on
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
