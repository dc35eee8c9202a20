"""linear_grpo_loss in one pass: a chunk of rows is scored, given slopes and turned into gradients at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastrl.kernels._batch import LossBatch, needs_whole_sequences
from fastrl.kernels._chunks import RowMath, RowScores, chunk_sizes, default_chunk_rows
from fastrl.kernels._head import Head
from fastrl.kernels._outputs import LossOutput
from fastrl.kernels.linear_logprob.chunked import GradientAccumulator, Gradients

# (log-probs, entropy, batch) -> (d loss / d log-probs, stats with "loss" among them)
Slopes = Callable[[Tensor, Tensor, LossBatch], tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True, slots=True)
class Chunk:
    rows: Tensor
    """Computed tokens, rising."""
    first: int
    last: int
    """All of them lie in [first, last), and no other chunk's do."""


def linear_grpo_loss_chunked(
    hidden: Tensor,
    ids: Tensor,
    head: Head,
    batch: LossBatch,
    chunk_rows: int | None,
    math: RowMath,
    slopes: Slopes,
) -> LossOutput:
    inputs = (hidden, head.weight, head.bias)
    needed = [torch.is_grad_enabled() and each is not None and each.requires_grad for each in inputs]
    bias = None if head.bias is None else head.bias.detach()
    head = dataclasses.replace(head, weight=head.weight.detach(), bias=bias)
    run = _Run(hidden.detach(), ids, head, batch, math, slopes, (needed[0], needed[1], needed[2]))
    run.all_chunks(chunk_rows or default_chunk_rows(head.weight.shape[0]))
    loss = run.stats.pop("loss").to(torch.float32)
    if any(needed):
        loss = _ReadyGradients.apply(  # type: ignore[no-untyped-call]
            *inputs, loss, run.gradients.finish()
        )
    return LossOutput(loss, run.logprobs, run.entropy, run.stats, batch.computed)


class _ReadyGradients(torch.autograd.Function):
    """Gives the loss a history. The gradients are there already; backward scales them and hands them over."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, loss: Tensor, gradients: Gradients
    ) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Any, ...]:
        if ctx.gradients is None:
            raise RuntimeError(
                "[linear_grpo_loss] backward: expected one call, got a second; the gradients were handed over"
            )
        gradients, ctx.gradients = ctx.gradients, None
        # A GPU is not asked for the value; on the CPU the usual scale of 1 saves a pass over the weight.
        if grad_loss.device.type != "cpu" or grad_loss != 1:
            gradients = tuple(None if each is None else each.mul_(grad_loss) for each in gradients)
        return (*gradients, None, None)


def plan_chunks(batch: LossBatch, chunk_rows: int) -> tuple[list[Chunk], bool]:
    """(chunks, whether a sequence that is needed as a whole is longer than a chunk); at least one chunk."""
    rows = batch.computed.nonzero()[:, 0]
    sizes = chunk_sizes(rows.shape[0], chunk_rows)
    split = False
    if needs_whole_sequences(batch.config, batch.old_logprobs, batch.rollout_logprobs):
        ends = torch.searchsorted(rows, batch.cu_seqlens[1:].to(rows.dtype))
        lengths = ends.diff(prepend=ends.new_zeros(1)).tolist()
        split = max(lengths, default=0) > chunk_rows
        if not split:
            sizes = _pack(lengths, chunk_rows)
    chunks = []
    for part in torch.split(rows, sizes):
        first, last = (int(part[0]), int(part[-1]) + 1) if part.shape[0] else (0, 0)
        chunks.append(Chunk(part, first, last))
    return chunks, split


def _pack(lengths: list[int], chunk_rows: int) -> list[int]:
    """Sizes of chunks that hold whole sequences, in order."""
    sizes = [0]
    for length in lengths:
        if sizes[-1] + length > chunk_rows:
            sizes.append(0)
        sizes[-1] += length
    return sizes


class _Run:
    def __init__(
        self,
        hidden: Tensor,
        ids: Tensor,
        head: Head,
        batch: LossBatch,
        math: RowMath,
        slopes: Slopes,
        needed: tuple[bool, bool, bool],
    ) -> None:
        self._hidden, self._ids, self._head, self._batch = hidden, ids, head, batch
        self._math, self._slopes, self._differentiates = math, slopes, any(needed)
        self._by_entropy = batch.config.entropy_coef != 0
        self._exponentials = self._differentiates and not self._by_entropy and head.softcap is None
        self.gradients = GradientAccumulator(hidden, head, needed)
        self.logprobs = torch.zeros(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        self.entropy = torch.zeros_like(self.logprobs)
        self.stats: dict[str, Tensor] = {}

    def all_chunks(self, chunk_rows: int) -> None:
        chunks, split = plan_chunks(self._batch, chunk_rows)
        size = (max(chunk.rows.shape[0] for chunk in chunks), self._head.weight.shape[0])
        buffer = torch.empty(size, dtype=torch.float32, device=self._hidden.device)
        if not split:
            for chunk in chunks:
                operand, logits, scores = self._score(chunk, buffer)
                self._record(chunk, scores)
                slopes = self._slopes_of(chunk.first, chunk.last)[chunk.rows - chunk.first]
                self._differentiate(chunk, operand, logits, scores, slopes)
            return
        for chunk in chunks:
            self._record(chunk, self._score(chunk, buffer)[2])
        all_slopes = self._slopes_of(0, self._hidden.shape[0])
        if self._differentiates:
            for chunk in chunks:
                self._differentiate(chunk, *self._score(chunk, buffer), all_slopes[chunk.rows])

    def _score(self, chunk: Chunk, buffer: Tensor) -> tuple[Tensor, Tensor, RowScores]:
        """(the rows of hidden as operands, the buffer as `gradient` wants it, scores)"""
        logits = buffer[: chunk.rows.shape[0]]
        operand = self.gradients.products.operand(self._hidden[chunk.rows])
        self.gradients.products.logits(operand, logits)
        temperature = self._head.temperature_of(chunk.rows)
        ids = self._ids[chunk.rows]
        return operand, logits, self._math.score(logits, ids, self._head, temperature, self._exponentials)

    def _record(self, chunk: Chunk, scores: RowScores) -> None:
        self.logprobs[chunk.rows] = scores.logprobs
        self.entropy[chunk.rows] = scores.entropy
        self._add_stats(
            {
                "self_certainty_sum": scores.self_certainty.sum(dtype=torch.float64),
                "top1_sum": scores.top1.sum(dtype=torch.float64),
            }
        )

    def _slopes_of(self, first: int, last: int) -> Tensor:
        tokens = slice(first, last)
        part = self._batch.part(first, last)
        slopes, stats = self._slopes(self.logprobs[tokens], self.entropy[tokens], part)
        self._add_stats(stats)
        return slopes

    def _differentiate(
        self, chunk: Chunk, operand: Tensor, logits: Tensor, scores: RowScores, slopes: Tensor
    ) -> None:
        if not self._differentiates:
            return
        config, rows = self._batch.config, chunk.rows
        by_entropy = -config.entropy_coef * self._batch.weights[rows] if self._by_entropy else None
        temperature = self._head.temperature_of(rows)
        self._math.gradient(
            logits, self._ids[rows], self._head, temperature, scores, slopes, by_entropy, self._exponentials
        )
        self.gradients.add(rows, operand, logits)

    def _add_stats(self, new: dict[str, Tensor]) -> None:
        for name, value in new.items():
            if name not in self.stats:
                self.stats[name] = value
            elif name.endswith("_min"):
                self.stats[name] = torch.minimum(self.stats[name], value)
            elif name.endswith("_max"):
                self.stats[name] = torch.maximum(self.stats[name], value)
            else:
                self.stats[name] = self.stats[name] + value
