"""Compare policy losses on logits that are in memory already."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from bench.competitors import LOGITS, Competitor, LogitsCase
from bench.gates import LIMITS, relative
from bench.harness import compare
from bench.inputs import VARIANTS, packed_batch
from bench.launches import launches
from bench.memory import extra_bytes_cuda
from bench.providers import backends
from bench.sidebyside import MIB, Row, attempt, show
from fastrl.ops import grpo_loss, logits_grpo_loss

GATE_ROWS = 64


def build(sequences: int, length: int, vocab: int, dtype: torch.dtype, device: str) -> LogitsCase:
    """Return a case with logits [sequences, length + 1, vocab], scaled so that some tokens are likely."""
    torch.manual_seed(0)
    logits = torch.randn(sequences, length + 1, vocab, device=device, dtype=dtype).mul_(3).requires_grad_()
    batch = packed_batch(sequences * length, sequences, "realistic", device)
    config = VARIANTS["dapo"].config
    denominator = config.denominator(int(batch["loss_mask"].sum()), sequences, length)
    ids = torch.randint(0, vocab, (sequences, length), device=device)
    return LogitsCase(logits, ids, batch, config, denominator)


def gradient(function: Callable[[LogitsCase], Tensor], case: LogitsCase) -> tuple[Tensor]:
    (found,) = torch.autograd.grad(function(case), case.logits)
    return (found,)


def case_for(competitor: Competitor, case: LogitsCase) -> LogitsCase:
    """Return the case, with copied logits if the competitor overwrites them."""
    if not competitor.in_place:
        return case
    return replace(case, logits=case.logits.detach().clone().requires_grad_())


def our_loss(backend: str, case: LogitsCase) -> Tensor:
    """Compute fastrl's loss on the logits without a copy; each sequence's last position is masked."""
    sequences, rows, vocab = case.logits.shape
    mask = torch.nn.functional.pad(case.batch["loss_mask"].view(sequences, rows - 1), (0, 1))
    ends = torch.arange(sequences + 1, dtype=torch.int32, device=mask.device) * rows
    batch = case.batch | {"loss_mask": mask.flatten(), "cu_seqlens": ends}
    ids = torch.nn.functional.pad(case.ids, (0, 1)).flatten()
    flat = case.logits.view(-1, vocab)
    return logits_grpo_loss(
        flat, ids, **batch, config=case.config, denominator=case.denominator, backend=backend
    ).loss


def exact_gradient(case: LogitsCase) -> Tensor:
    logits = case.logits.detach().double().requires_grad_()
    scores = torch.log_softmax(logits[:, :-1], -1).gather(-1, case.ids[..., None]).flatten()
    batch = {k: v.double() if v.is_floating_point() else v for k, v in case.batch.items()}
    options = {"config": case.config, "denominator": case.denominator, "backend": "reference"}
    (found,) = torch.autograd.grad(grpo_loss(scores, **batch, **options).loss, logits)
    return found


def table(shape: tuple[int, int, int, str], given: argparse.Namespace, device: str) -> list[Row]:
    """Measure fastrl's backends and every competitor at one shape (B, L, V, dtype)."""
    sequences, length, vocab, dtype = shape
    make = partial(build, vocab=vocab, dtype=getattr(torch, dtype), device=device)
    torch.compiler.reset()
    case, small = make(sequences, length), make(sequences, min(length, GATE_ROWS))
    truth = exact_gradient(small)
    title = f"ready logits B={sequences} L={length} V={vocab} {dtype}, forward and backward"
    rows: dict[str, Row] = {}
    functions: dict[str, Callable[[LogitsCase], Tensor]] = {}
    cases: dict[str, LogitsCase] = {}
    for name, reason in backends("logits_grpo_loss", device, getattr(torch, dtype)).items():
        name = f"fastrl {name}"
        rows[name] = {"provider": name, "version": "", "reason": reason}
        functions[name], cases[name] = partial(our_loss, name.split()[1]), case
    for other in LOGITS:
        name, reason = other.name, other.reason(device)
        rows[name] = {"provider": name, "version": other.version(), "reason": reason}
        if reason is None:
            functions[name], cases[name] = other.function(), case_for(other, case)
    runs: dict[str, Callable[[], tuple[Tensor]]] = {}
    for name, row in rows.items():
        row["spec"] = {"shape": title}
        if row["reason"] is None:
            run = partial(gradient, functions[name], cases[name])
            if attempt(row, run):
                runs[name] = run
    for name, times in compare(runs, given.rounds, device, 9 if device == "cuda" else 1).items():
        rows[name] |= times | {"launches": launches(runs[name], device)}
        if device == "cuda":
            rows[name]["memory"] = {"extra_mib": extra_bytes_cuda(runs[name]) / MIB}
    for name in runs:
        found = gradient(
            functions[name], replace(small, logits=small.logits.detach().clone().requires_grad_())
        )
        rows[name]["gates"] = gate(found[0], truth, dtype)
    show(title, list(rows.values()))
    return list(rows.values())


def gate(found: Tensor, truth: Tensor, dtype: str) -> Row:
    error = relative(found, truth)
    return {"dx_rel": error, "failed": [] if error <= LIMITS[dtype][1] else ["dx_rel"]}
