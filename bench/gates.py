"""Check each provider's results: against float64, between repeated calls, and row by row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bench.inputs import Case, CaseSpec
from bench.providers import Provider, gradients
from fastrl.ops import grpo_loss

ROWS = 512
SATURATED = 0.999999
SINGLE_ROWS = 4
"""Approximate number of rows that are also computed one by one."""
LIMITS = {"float32": (1e-3, 1e-4), "bfloat16": (2e-1, 1e-2), "float16": (5e-2, 1e-2)}
"""Per dtype: limit of |dlogp| and of a gradient's relative L2 error."""


@dataclass(frozen=True, slots=True)
class Exact:
    """Log-probs and gradients of a case in float64."""

    logprobs: Tensor
    hidden_grad: Tensor
    weight_grad: Tensor


def gate_case(spec: CaseSpec, rows: int = ROWS) -> Case:
    """Build a case of at most `rows` rows with the same vocabulary, distribution and mask."""
    return spec.with_tokens(min(rows, spec.tokens)).build()


def exact(case: Case, op: str) -> Exact:
    """Compute log-probs and both gradients in float64, 64 rows at a time."""
    hidden, weight = case.hidden.detach().double(), case.weight.detach().double()
    logits = lambda rows: rows @ weight.T / case.temperature
    logprobs = torch.cat(
        [
            (scores := logits(rows)).gather(-1, ids[:, None])[:, 0] - scores.logsumexp(-1)
            for rows, ids in zip(hidden.split(64), case.ids.split(64), strict=True)
        ]
    ).requires_grad_()
    (scale,) = torch.autograd.grad(loss_of(op, case)(logprobs), logprobs)
    hidden_grad, weight_grad = torch.empty_like(hidden), torch.zeros_like(weight)
    for start in range(0, len(hidden), 64):
        rows = slice(start, start + 64)
        grad_logits = -logits(hidden[rows]).softmax(-1)
        grad_logits[torch.arange(len(grad_logits), device=grad_logits.device), case.ids[rows]] += 1
        grad_logits *= scale[rows, None] / case.temperature
        hidden_grad[rows] = grad_logits @ weight
        weight_grad += grad_logits.T @ hidden[rows]
    return Exact(logprobs.detach(), hidden_grad, weight_grad)


def loss_of(op: str, case: Case) -> Callable[[Tensor], Tensor]:
    if op == "linear_logprob":
        return torch.sum

    def loss(logprobs: Tensor) -> Tensor:
        batch = {k: v.double() if v.is_floating_point() else v for k, v in case.batch.items()}
        out = grpo_loss(
            logprobs, **batch, config=case.config, denominator=case.denominator, backend="reference"
        )
        return out.loss

    return loss


def gates(provider: Provider, case: Case, truth: Exact) -> dict[str, object]:
    """Measure one provider's accuracy; "failed" names the gates it does not pass."""
    outcome, grads = gradients(provider, case)
    mask = case.batch["loss_mask"]
    found: dict[str, object] = {
        "logp_max": None,
        "logp_mean": None,
        "dx_rel": relative(grads[0], truth.hidden_grad),
        "dw_rel": relative(grads[1], truth.weight_grad),
        "repeatable": repeatable(provider, case),
        "batch_invariant": batch_invariant(provider, case, outcome.logprobs),
        **saturated(grads[0], case, truth),
    }
    if outcome.logprobs is not None:
        trained = mask & active(case)
        error = (outcome.logprobs.detach().double() - truth.logprobs).abs()[trained]
        found |= {"logp_max": error.max().item(), "logp_mean": error.mean().item()}
    found["failed"] = failures(found, str(case.hidden.dtype).removeprefix("torch."))
    return found


def active(case: Case) -> Tensor:
    """Return the mask of rows with a nonzero advantage; a provider may leave the others at 0."""
    lengths = case.batch["cu_seqlens"].diff()
    return torch.repeat_interleave(case.batch["advantages"], lengths) != 0


def relative(found: Tensor, wanted: Tensor) -> float:
    return ((found.double() - wanted).norm() / wanted.norm().clamp_min(1e-300)).item()


def saturated(hidden_grad: Tensor, case: Case, truth: Exact) -> dict[str, object]:
    """Return share of zero gradients and error over tokens with p > SATURATED and nonzero exact gradient."""
    rows = (truth.logprobs.exp() > SATURATED) & (truth.hidden_grad != 0).any(-1)
    if not rows.any():
        return {"saturated_zero_share": None, "saturated_dx_rel": None}
    lost = (hidden_grad[rows] == 0).all(-1).double().mean().item()
    error = relative(hidden_grad[rows], truth.hidden_grad[rows])
    return {"saturated_zero_share": lost, "saturated_dx_rel": error}


def repeatable(provider: Provider, case: Case) -> bool:
    """Return whether three calls give the same bits."""
    runs = []
    for _ in range(3):
        outcome, grads = gradients(provider, case)
        logprobs = [] if outcome.logprobs is None else [outcome.logprobs.detach()]
        runs.append([outcome.loss.detach(), *grads, *logprobs])
    return all(torch.equal(a, b) for run in runs[1:] for a, b in zip(runs[0], run, strict=True))


def batch_invariant(provider: Provider, case: Case, logprobs: Tensor | None) -> bool | None:
    """Return whether a single row gets the same log-prob bits as in the batch; None without log-probs."""
    if logprobs is None:
        return None
    rows = torch.nonzero(case.batch["loss_mask"] & active(case))[:, 0]
    same = []
    for row in rows[:: max(1, len(rows) // SINGLE_ROWS)].tolist():
        single = provider.run(single_row(case, row)).logprobs
        same.append(single is not None and torch.equal(single.detach(), logprobs[row : row + 1].detach()))
    return all(same)


def single_row(case: Case, row: int) -> Case:
    """Return a case with one row of `case`."""
    sequence = row * case.num_sequences // len(case.ids)
    batch = {name: values[row : row + 1] for name, values in case.batch.items()}
    batch["advantages"] = case.batch["advantages"][sequence : sequence + 1]
    batch["cu_seqlens"] = case.batch["cu_seqlens"].new_tensor([0, 1])
    return replace(case, hidden=case.hidden[row : row + 1], ids=case.ids[row : row + 1], batch=batch)


def failures(found: dict[str, object], dtype: str) -> list[str]:
    worst, relative_worst = LIMITS[dtype]

    def above(name: str, limit: float) -> bool:
        value = found[name]
        # not <=, so that NaN fails
        return isinstance(value, float) and not value <= limit

    failed = [name for name, limit in (("logp_max", worst), ("dx_rel", relative_worst)) if above(name, limit)]
    failed += [name for name in ("dw_rel",) if above(name, relative_worst)]
    failed += [name for name in ("saturated_zero_share",) if above(name, 0.0)]
    return failed + [name for name in ("repeatable",) if found[name] is False]
