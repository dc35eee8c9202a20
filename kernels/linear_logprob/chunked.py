"""linear_logprob a chunk of rows at a time; the backward makes each chunk's logits again."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from fastrl.kernels._chunks import HeadProducts, RowMath, chunk_sizes, default_chunk_rows
from fastrl.kernels._head import Head
from fastrl.kernels._outputs import LogprobOutput

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


def linear_logprob_chunked(
    hidden: Tensor, ids: Tensor, head: Head, chunk_rows: int | None, math: RowMath
) -> LogprobOutput:
    rows_at_once = chunk_rows or default_chunk_rows(head.weight.shape[0])
    scalars = dataclasses.replace(head, weight=head.weight.detach(), bias=_detached(head.bias))
    out = _ChunkedLogprob.apply(  # type: ignore[no-untyped-call]
        hidden, head.weight, head.bias, ids, scalars, rows_at_once, math
    )
    return LogprobOutput(*out)


class _ChunkedLogprob(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        ids: Tensor,
        head: Head,
        chunk_rows: int,
        math: RowMath,
    ) -> tuple[Tensor, ...]:
        out = _score(hidden, ids, head, chunk_rows, math)
        ctx.save_for_backward(hidden, weight, ids)
        ctx.head, ctx.chunk_rows, ctx.math = head, chunk_rows, math
        ctx.mark_non_differentiable(out[2], out[3])
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_logprobs: Tensor, grad_entropy: Tensor, *_: Any) -> tuple[Any, ...]:
        hidden, weight, ids = ctx.saved_tensors
        head = dataclasses.replace(ctx.head, weight=weight.detach())
        gradients = _backward(
            hidden, ids, head, ctx.chunk_rows, ctx.math, grad_logprobs, grad_entropy, ctx.needs_input_grad[:3]
        )
        return (*gradients, None, None, None, None)


def _score(hidden: Tensor, ids: Tensor, head: Head, chunk_rows: int, math: RowMath) -> tuple[Tensor, ...]:
    num_rows, vocab = hidden.shape[0], head.weight.shape[0]
    out = tuple(torch.empty(num_rows, dtype=torch.float32, device=hidden.device) for _ in range(3))
    top1 = torch.empty(num_rows, dtype=torch.bool, device=hidden.device)
    products = HeadProducts(head.weight, hidden.dtype, with_weight_gradient=False)
    sizes = chunk_sizes(num_rows, chunk_rows)
    buffer = torch.empty(sizes[0], vocab, dtype=torch.float32, device=hidden.device)
    for rows in torch.split(torch.arange(num_rows, device=hidden.device), sizes):
        logits = buffer[: rows.shape[0]]
        products.logits(products.operand(hidden[rows]), logits)
        scores = math.score(logits, ids[rows], head, head.temperature_of(rows), keep_exponentials=False)
        for target, values in zip(out, (scores.logprobs, scores.entropy, scores.self_certainty), strict=True):
            target[rows] = values
        top1[rows] = scores.top1
    return (*out, top1)


def _backward(
    hidden: Tensor,
    ids: Tensor,
    head: Head,
    chunk_rows: int,
    math: RowMath,
    grad_logprobs: Tensor,
    grad_entropy: Tensor,
    needed: tuple[bool, bool, bool],
) -> Gradients:
    accumulator = GradientAccumulator(hidden, head, needed)
    active = ((grad_logprobs != 0) | (grad_entropy != 0)).nonzero()[:, 0]
    by_entropy = bool((grad_entropy != 0).any())
    sizes = chunk_sizes(active.shape[0], chunk_rows)
    buffer = torch.empty(sizes[0], head.weight.shape[0], dtype=torch.float32, device=hidden.device)
    for rows in torch.split(active, sizes):
        logits, operand = buffer[: rows.shape[0]], accumulator.products.operand(hidden[rows])
        accumulator.products.logits(operand, logits)
        args = (logits, ids[rows], head, head.temperature_of(rows))
        exponentials = not by_entropy and head.softcap is None
        scores = math.score(*args, keep_exponentials=exponentials)
        math.gradient(
            *args, scores, grad_logprobs[rows], grad_entropy[rows] if by_entropy else None, exponentials
        )
        accumulator.add(rows, operand, logits)
    return accumulator.finish()


class GradientAccumulator:
    """Gradients in hidden, weight and bias, gathered over chunks of rows."""

    def __init__(self, hidden: Tensor, head: Head, needed: tuple[bool, bool, bool]) -> None:
        self._head = head
        self._with_hidden, self._with_weight, self._with_bias = needed
        self.products = HeadProducts(head.weight, hidden.dtype, self._with_weight)
        self._hidden = torch.zeros_like(hidden) if self._with_hidden else None
        bias = head.bias
        with_bias = self._with_bias and bias is not None
        self._bias = torch.zeros_like(bias, dtype=torch.float32) if with_bias else None

    def add(self, rows: Tensor, operand: Tensor, grad_logits: Tensor) -> None:
        if self._bias is not None:
            self._bias += grad_logits.sum(0)
        grad_rows = self.products.gradients(operand, grad_logits, self._with_hidden)
        if self._hidden is not None and grad_rows is not None:
            self._hidden[rows] = grad_rows.to(self._hidden.dtype)

    def finish(self) -> Gradients:
        weight = self.products.weight_gradient
        if weight is None and self._with_weight:
            weight = torch.zeros_like(self._head.weight, dtype=torch.float32)
        if weight is not None:
            weight = weight.to(self._head.weight.dtype)
        bias = None if self._bias is None or self._head.bias is None else self._bias.to(self._head.bias.dtype)
        return self._hidden, weight, bias


def _detached(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach()
